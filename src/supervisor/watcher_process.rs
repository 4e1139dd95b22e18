//! The native watcher as the keeper sees it: given its keys, and asked what it has seen.

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
use spa_knock_core::knock::{KnockRange, Steady};

/// For how long one that has not said what it has seen is not asked again.
const SILENCE: Duration = Duration::from_secs(1);

/// A running watcher. Dropping it ends it.
pub(crate) struct WatcherProcess {
    child: WatcherChild,
    /// What it said last that it has seen.
    seen: WatcherStats,
    /// When that came.
    told: Option<Steady>,
    /// When it was last asked for it.
    asked: Option<Steady>,
}

/// What a watcher watches. When this changes, another one is needed; new keys it takes as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchConfig {
    source: CaptureSource,
    port: u16,
    knock_range: Option<KnockRange>,
    capture: CaptureConfig,
}

impl WatchConfig {
    /// What the config says.
    ///
    /// # Errors
    /// When there is no user that the watcher could become.
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

    /// The interfaces to capture on that are not there, or down.
    pub(crate) fn missing_interfaces(&self) -> Vec<&str> {
        self.capture.missing_interfaces()
    }

    /// Whether all of them are missing.
    pub(crate) fn misses_everything(&self) -> bool {
        self.capture.misses_everything()
    }

    /// The user that the watcher becomes, if it becomes another one.
    pub(crate) const fn identity(&self) -> Option<Identity> {
        self.capture.identity
    }

    /// The messages that only the native watcher has.
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
    /// Starts a watcher and waits until it watches.
    ///
    /// # Errors
    /// Why it does not, for people.
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
        Ok(Self { child, seen: WatcherStats::default(), told: None, asked: None })
    }

    /// Gives a running watcher its keys, all of them anew.
    ///
    /// # Errors
    /// When it is gone, or does not take them in time.
    pub(crate) fn instruct(
        &mut self,
        config: &WatchConfig,
        window: Duration,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> std::io::Result<()> {
        let messages = config.messages(window, keys);
        self.child.configure(&config.capture, OnMissingInterface::Continue, messages)
    }

    /// Takes one report, if there is one; returns its length.
    ///
    /// # Errors
    /// When the watcher is gone.
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

    /// What it has seen, as far as it has said so.
    pub(crate) const fn seen(&self) -> WatcherStats {
        self.seen
    }

    /// When it last said what it has seen.
    pub(crate) const fn told(&self) -> Option<Steady> {
        self.told
    }

    /// It has said what it has seen.
    pub(crate) fn note(&mut self, seen: WatcherStats) {
        self.seen = seen;
        self.told = Some(clock::steady());
    }

    /// Whether it was asked a moment ago, and has not answered: waiting for it again helps nobody.
    pub(crate) fn is_silent(&self, now: Steady) -> bool {
        self.asked
            .is_some_and(|asked| self.told.is_none_or(|told| told < asked) && now.since(asked) < SILENCE)
    }

    /// Asks it what it has seen; whether there was room for the question.
    pub(crate) fn ask(&mut self) -> bool {
        self.asked = Some(clock::steady());
        self.child.try_send(&ToWatcher::Count.to_bytes())
    }
}

impl AsFd for WatcherProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}
