//! The watcher as the keeper sees it: started, given its keys, listened to, started again when it dies.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::time::Duration;

use super::restart::SILENCE_MAX;
use crate::capture::{CaptureKind, PacketLog};
use crate::config::{Interfaces, ServerConfig};
use crate::ipc::{CaptureSource, FromWatcher, MESSAGE, OnMissingInterface, ToWatcher, WatcherStats};
use crate::os::host::{self, Capability, LinkState};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::net::udp::UdpPort;
use crate::os::process::privileges::{self, Identity};
use crate::os::process::{capabilities, spawn};
use crate::os::{clock, poll};
use spa_knock_core::auth::WatchedKey;
use spa_knock_core::knock::KnockRange;

/// How long opening the captures may take.
const START_MAX: Duration = Duration::from_secs(10);
/// For how long one that has not said what it has seen is not asked again.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a watcher that was asked to end may take.
const END_MAX: Duration = Duration::from_secs(1);

/// A running watcher. Dropping it ends it.
pub(crate) struct WatcherProcess {
    child: Child,
    channel: Channel,
    /// When it was started, on the steady clock.
    since: Duration,
    /// When its last message came.
    heard: Duration,
    /// What it said last that it has seen.
    seen: WatcherStats,
    /// When that came.
    told: Option<Duration>,
    /// When it was last asked for it.
    asked: Option<Duration>,
}

/// What a watcher watches. When this changes, another one is needed; new keys it takes as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchConfig {
    source: CaptureSource,
    port: u16,
    knock_range: Option<KnockRange>,
    interfaces: Vec<String>,
    /// What packets to the band are read from; none = they are captured.
    log: Option<PacketLog>,
    identity: Option<Identity>,
}

impl WatchConfig {
    /// What the config says.
    ///
    /// # Errors
    /// When there is no user that the watcher could become.
    pub(crate) fn of(config: &ServerConfig) -> std::io::Result<Self> {
        Ok(Self {
            source: match config.capture {
                CaptureKind::Pcap => CaptureSource::Capture,
                CaptureKind::Udp => CaptureSource::Socket,
            },
            port: config.port,
            knock_range: config.ports,
            interfaces: match &config.interfaces {
                Interfaces::Any => Vec::new(),
                Interfaces::Named(names) => names.clone(),
            },
            log: match config.capture {
                CaptureKind::Pcap => None,
                CaptureKind::Udp => {
                    let legacy = config.ports.and(config.legacy.as_ref());
                    legacy.and_then(|legacy| legacy.log.clone())
                }
            },
            identity: privileges::unprivileged(&config.user)?,
        })
    }
}

impl WatchConfig {
    /// The knock port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The interfaces to capture on that are not there, or down.
    pub(crate) fn missing_interfaces(&self) -> Vec<&str> {
        let captures = self.source == CaptureSource::Capture;
        let names = self.interfaces.iter().filter(|_| captures).map(String::as_str);
        names.filter(|name| host::link(name) != LinkState::Up).collect()
    }

    /// Whether all of them are missing.
    pub(crate) fn misses_everything(&self) -> bool {
        !self.interfaces.is_empty() && self.missing_interfaces().len() == self.interfaces.len()
    }

    /// The user that the watcher becomes, if it becomes another one.
    pub(crate) const fn identity(&self) -> Option<Identity> {
        self.identity
    }
}

impl WatcherProcess {
    /// Starts a watcher and waits until it watches.
    ///
    /// # Errors
    /// Why it does not, for people.
    pub(crate) fn start(
        watch_config: &WatchConfig,
        missing: OnMissingInterface,
        window: Duration,
        socket: Option<&UdpPort>,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> Result<Self, String> {
        let plain = |error: std::io::Error| format!("watcher: {}", crate::os::files::io_error_text(&error));
        let (channel, theirs) = Channel::pair().map_err(plain)?;
        let socket = match watch_config.source {
            CaptureSource::Capture => None,
            CaptureSource::Socket => socket.map(UdpPort::share).transpose().map_err(plain)?,
        };
        let start = || spawn::reexec("watch", theirs, socket);
        let child = match watch_config.source {
            CaptureSource::Capture => capabilities::with_ambient(&[Capability::NetRaw], start),
            CaptureSource::Socket => start(),
        }
        .map_err(plain)?;
        let now = clock::steady();
        let mut watcher = Self {
            child,
            channel,
            since: now,
            heard: now,
            seen: WatcherStats::default(),
            told: None,
            asked: None,
        };
        let instructed = watcher.send_all(watch_config, missing, window, keys);
        // Of one that ended early, its own words say more than that the channel broke.
        watcher.wait_until_it_watches()?;
        instructed.map_err(plain)?;
        Ok(watcher)
    }

    /// Gives a running watcher its keys, all of them anew.
    ///
    /// # Errors
    /// When it is gone, or does not take them in time.
    pub(crate) fn instruct(
        &mut self,
        watch_config: &WatchConfig,
        window: Duration,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> std::io::Result<()> {
        self.send_all(watch_config, OnMissingInterface::Continue, window, keys)
    }

    fn send_all(
        &mut self,
        watch_config: &WatchConfig,
        missing: OnMissingInterface,
        window: Duration,
        keys: impl Iterator<Item = WatchedKey>,
    ) -> std::io::Result<()> {
        let deadline = clock::steady().saturating_add(START_MAX);
        let send = |order: ToWatcher| {
            // One that takes each message a little before its timeout must not hold us up either.
            if clock::steady() >= deadline {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.channel.send(&order.to_bytes())
        };
        send(ToWatcher::Watch {
            source: watch_config.source,
            port: watch_config.port,
            knock_range: watch_config.knock_range,
            window,
            missing,
        })?;
        for name in &watch_config.interfaces {
            send(ToWatcher::Interface(name.clone()))?;
        }
        if let Some(log) = &watch_config.log {
            send(ToWatcher::Log(log.clone()))?;
        }
        if let Some(identity) = watch_config.identity {
            send(ToWatcher::Become(identity))?;
        }
        for key in keys {
            send(ToWatcher::Key(key))?;
        }
        send(ToWatcher::Go)
    }

    /// Takes one report, if there is one.
    ///
    /// # Errors
    /// When the watcher is gone.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        match self.channel.try_recv(buffer) {
            Ok(ReceiveResult::Message(length)) => {
                self.heard = clock::steady();
                Ok(Some(length))
            }
            Ok(ReceiveResult::Nothing) => Ok(None),
            Ok(ReceiveResult::Closed) | Err(_) => Err(Disconnected),
        }
    }

    /// When it was started, on the steady clock.
    pub(crate) const fn since(&self) -> Duration {
        self.since
    }

    /// How long ago its last message came.
    pub(crate) const fn silence_since_report(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// When it has been silent for too long, unless a message comes before.
    pub(crate) const fn silent_at(&self) -> Duration {
        self.heard.saturating_add(SILENCE_MAX)
    }

    /// Ends it without waiting for it: one that hangs does not end by itself.
    pub(crate) fn kill(&mut self) {
        spawn::kill_group(&self.child);
    }

    /// What it has seen, as far as it has said so.
    pub(crate) const fn seen(&self) -> WatcherStats {
        self.seen
    }

    /// When it last said what it has seen.
    pub(crate) const fn exit_deadline(&self) -> Option<Duration> {
        self.told
    }

    /// It has said what it has seen.
    pub(crate) fn note(&mut self, seen: WatcherStats) {
        self.seen = seen;
        self.told = Some(clock::steady());
    }

    /// Whether it was asked a moment ago, and has not answered: waiting for it again helps nobody.
    pub(crate) fn is_silent(&self, now: Duration) -> bool {
        self.asked.is_some_and(|asked| {
            self.told.is_none_or(|told| told < asked) && now.saturating_sub(asked) < SILENCE
        })
    }

    /// Asks it what it has seen; whether there was room for the question.
    pub(crate) fn ask(&mut self) -> bool {
        self.asked = Some(clock::steady());
        self.channel.try_send(&ToWatcher::Count.to_bytes()).is_ok()
    }

    fn wait_until_it_watches(&mut self) -> Result<(), String> {
        let deadline = clock::steady().saturating_add(START_MAX);
        let mut buffer = [0; MESSAGE];
        loop {
            let left = deadline.saturating_sub(clock::steady());
            if left.is_zero() {
                return Err("watcher: did not start within 10 s".to_owned());
            }
            poll::readable(&[self.as_fd()], left).map_err(|error| format!("watcher: {error}"))?;
            match self.try_recv(&mut buffer) {
                Ok(None) => {}
                Ok(Some(length)) => match FromWatcher::read(buffer.get(..length).unwrap_or_default()) {
                    Some(FromWatcher::Watching) => return Ok(()),
                    Some(FromWatcher::Failed(reason)) => return Err(reason),
                    _ => return Err("watcher: spoke before it watched".to_owned()),
                },
                Err(Disconnected) => return Err("watcher: ended as it started".to_owned()),
            }
        }
    }
}

impl AsFd for WatcherProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for WatcherProcess {
    fn drop(&mut self) {
        // Its end of the channel closes with ours, and it ends by itself; a hostile one is made to.
        if let Ok((unconnected, _)) = Channel::pair() {
            self.channel = unconnected;
        }
        spawn::end(&mut self.child, END_MAX);
    }
}

/// The watcher is gone.
#[derive(Debug)]
pub(crate) struct Disconnected;
