//! Handle to the native watcher: sends its keys, and requests its statistics.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::child::{CaptureConfig, Disconnected, WatcherChild};
use super::program::Program;
use crate::capture::CaptureKind;
use crate::config::{Interfaces, ServerConfig};
use crate::ipc::{Bytes, CaptureSource, MESSAGE, OnMissingInterface, ToWatcher, WatcherStats};
use crate::os::clock;
use crate::os::net::udp::UdpPort;
use crate::os::process::privileges::{self, Identity};
use spa_knock_core::auth::WatchedKey;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{KnockRange, Steady};

/// How long to wait before requesting the statistics again if no report has arrived.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// A running watcher. Dropping it ends it.
pub(crate) struct WatcherProcess {
    child: WatcherChild,
    /// The last reported statistics.
    stats: WatcherStats,
    /// When they were reported.
    reported_at: Option<Steady>,
    /// When they were last requested.
    requested_at: Option<Steady>,
}

/// Configuration of the native watcher. A change requires a new watcher, except for new keys, which a running one
/// accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchConfig {
    source: CaptureSource,
    port: u16,
    knock_range: Option<KnockRange>,
    capture: CaptureConfig,
}

impl WatchConfig {
    /// The part of the server's config that concerns the watcher.
    ///
    /// # Errors
    /// If there is no user that the watcher could switch to.
    pub(crate) fn of(config: &ServerConfig) -> std::io::Result<Self> {
        let (source, log) = match config.capture {
            CaptureKind::Pcap => (CaptureSource::Capture, None),
            CaptureKind::Udp => (CaptureSource::Socket, config.ports.and(config.packet_log.clone())),
        };
        Ok(Self {
            source,
            port: config.port,
            knock_range: config.ports,
            capture: CaptureConfig {
                captures: source == CaptureSource::Capture,
                interfaces: match &config.interfaces {
                    Interfaces::Any => Vec::new(),
                    Interfaces::Named(names) => names.clone(),
                },
                log,
                identity: privileges::unprivileged(&config.user)?,
            },
        })
    }

    /// The knock port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The interfaces to capture on that do not exist or are down.
    pub(crate) fn missing_interfaces(&self) -> Vec<&str> {
        self.capture.missing_interfaces()
    }

    /// Whether all configured interfaces are missing.
    pub(crate) fn misses_everything(&self) -> bool {
        self.capture.misses_everything()
    }

    /// The user that the watcher switches to; none = keep the user.
    pub(crate) const fn identity(&self) -> Option<Identity> {
        self.capture.identity
    }

    /// The messages that only the native watcher understands.
    fn messages(
        &self,
        window: Duration,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> impl Iterator<Item = Bytes> {
        let Self { source, port, knock_range, .. } = *self;
        let watch = ToWatcher::Watch { source, port, knock_range, window };
        std::iter::once(watch).chain(keys.map(ToWatcher::Key)).map(|message| message.to_bytes())
    }
}

impl WatcherProcess {
    /// Starts a watcher and waits until it is watching.
    ///
    /// # Errors
    /// Why it is not watching, as human-readable text.
    pub(crate) fn start(
        program: &Program,
        config: &WatchConfig,
        missing: OnMissingInterface,
        window: Duration,
        socket: Option<&UdpPort>,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> Result<Self, String> {
        let socket = match config.source {
            CaptureSource::Capture => None,
            CaptureSource::Socket => socket
                .map(UdpPort::share)
                .transpose()
                .map_err(|error| format!("watcher: {}", crate::os::files::io_error_text(&error)))?,
        };
        let messages = config.messages(window, keys);
        let child = WatcherChild::start(program, &config.capture, missing, socket, messages)?;
        Ok(Self { child, stats: WatcherStats::default(), reported_at: None, requested_at: None })
    }

    /// Replaces all keys of a running watcher.
    ///
    /// # Errors
    /// If it has exited, or does not read them in time.
    pub(crate) fn replace_keys(
        &mut self,
        config: &WatchConfig,
        window: Duration,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> std::io::Result<()> {
        let messages = config.messages(window, keys);
        self.child.configure(&config.capture, OnMissingInterface::Continue, messages)
    }

    /// Receives one report, if there is one; returns its length.
    ///
    /// # Errors
    /// If the watcher has exited.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        self.child.try_recv(buffer)
    }

    /// The process.
    pub(crate) const fn child(&self) -> &WatcherChild {
        &self.child
    }

    /// The process, to end it.
    pub(crate) const fn child_mut(&mut self) -> &mut WatcherChild {
        &mut self.child
    }

    /// Its statistics, as of the last report.
    pub(crate) const fn stats(&self) -> WatcherStats {
        self.stats
    }

    /// When it last reported its statistics.
    pub(crate) const fn reported_at(&self) -> Option<Steady> {
        self.reported_at
    }

    /// Stores statistics that it has reported.
    pub(crate) fn record_stats(&mut self, stats: WatcherStats) {
        self.stats = stats;
        self.reported_at = Some(clock::steady());
    }

    /// Whether statistics were requested less than a second ago and have not arrived. Waiting for them again is
    /// useless.
    pub(crate) fn is_silent(&self, now: Steady) -> bool {
        self.requested_at.is_some_and(|requested| {
            self.reported_at.is_none_or(|reported| reported < requested)
                && now.since(requested) < REQUEST_INTERVAL
        })
    }

    /// Reports the address from which a client knocked last with a valid SSH signature. Returns whether there was room for
    /// the report.
    pub(crate) fn set_usual_source(&mut self, key: Fingerprint, source: IpAddr) -> bool {
        self.child.try_send(&ToWatcher::UsualSource(key, source).to_bytes())
    }

    /// Requests a report, for which no one waits.
    pub(crate) fn prompt(&self) {
        // Where there is no room, it has earlier messages to react to.
        self.child.try_send(&ToWatcher::Count.to_bytes());
    }

    /// Requests its statistics. Returns whether there was room for the request.
    pub(crate) fn request_stats(&mut self) -> bool {
        self.requested_at = Some(clock::steady());
        self.child.try_send(&ToWatcher::Count.to_bytes())
    }
}

impl AsFd for WatcherProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}
