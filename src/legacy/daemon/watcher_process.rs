//! The watcher of plain sequences as the keeper sees it: started, listened to, started again when it dies or loses an
//! interface.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::time::Duration;

use crate::capture::PacketLog;
use crate::legacy::ipc::{FromLegacyWatcher, MESSAGE, TEXT_MAX, ToLegacyWatcher};
use crate::legacy::knockd::KnockSequence;
use crate::os::host::{self, Capability, LinkState};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::privileges::Identity;
use crate::os::process::{capabilities, spawn};
use crate::os::{clock, files, poll};
use crate::supervisor::restart::SILENCE_MAX;

/// How long opening the captures may take.
const START_MAX: Duration = Duration::from_secs(10);
/// How long a watcher that was asked to end may take.
const END_MAX: Duration = Duration::from_secs(1);

/// What a watcher watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LegacyWatchConfig {
    /// The config's text.
    pub(crate) config: Vec<u8>,
    /// Where; none at all = every interface.
    pub(crate) interfaces: Vec<String>,
    /// What packets are read from; none = they are captured.
    pub(crate) log: Option<PacketLog>,
    /// Without IPv6.
    pub(crate) only_v4: bool,
    /// Whom it becomes.
    pub(crate) identity: Option<Identity>,
}

impl LegacyWatchConfig {
    /// Whether none of the interfaces to capture on is there and up.
    pub(crate) fn misses_everything(&self) -> bool {
        let is_missing = |name: &String| host::link(name) != LinkState::Up;
        self.log.is_none() && !self.interfaces.is_empty() && self.interfaces.iter().all(is_missing)
    }
}

/// A running watcher. Dropping it ends it.
pub(in crate::legacy) struct LegacyWatcher {
    child: Child,
    channel: Channel,
    /// When its last message came, on the steady clock.
    heard: Duration,
    addresses: BTreeSet<IpAddr>,
}

/// The watcher is gone.
#[derive(Debug)]
pub(in crate::legacy) struct LegacyWatcherError;

impl LegacyWatcher {
    /// Starts a watcher and waits until it watches: everywhere, or with `some` wherever it can.
    ///
    /// # Errors
    /// Why it does not, for people.
    pub(in crate::legacy) fn start(watch_config: &LegacyWatchConfig, some: bool) -> Result<Self, String> {
        let plain = |error: std::io::Error| format!("watcher: {}", files::io_error_text(&error));
        let (channel, theirs) = Channel::pair().map_err(plain)?;
        let start = || spawn::reexec("watch-knocks", theirs, None);
        let child = match watch_config.log {
            Some(_) => start(),
            None => capabilities::with_ambient(&[Capability::NetRaw], start),
        }
        .map_err(plain)?;
        let mut watcher = Self { child, channel, heard: clock::steady(), addresses: BTreeSet::new() };
        let instructed = watcher.instruct(watch_config, some);
        // Of one that ended early, its own words say more than that the channel broke.
        watcher.wait_until_it_watches()?;
        instructed.map_err(plain)?;
        watcher.send_addresses(watch_config);
        Ok(watcher)
    }

    /// Takes one report, if there is one.
    ///
    /// # Errors
    /// When the watcher is gone, or talks nonsense.
    pub(in crate::legacy) fn try_recv(&mut self) -> Result<Option<FromLegacyWatcher>, LegacyWatcherError> {
        let mut buffer = [0; MESSAGE];
        match self.channel.try_recv(&mut buffer) {
            Ok(ReceiveResult::Message(length)) => {
                self.heard = clock::steady();
                FromLegacyWatcher::read(buffer.get(..length).unwrap_or_default())
                    .map(Some)
                    .ok_or(LegacyWatcherError)
            }
            Ok(ReceiveResult::Nothing) => Ok(None),
            Ok(ReceiveResult::Closed) | Err(_) => Err(LegacyWatcherError),
        }
    }

    /// How long ago its last message came.
    pub(in crate::legacy) const fn silence_since_report(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// When it has been silent for too long, unless a message comes before.
    pub(in crate::legacy) const fn silent_at(&self) -> Duration {
        self.heard.saturating_add(SILENCE_MAX)
    }

    /// Ends it without waiting for it: one that hangs does not end by itself.
    pub(in crate::legacy) fn kill(&mut self) {
        spawn::kill_group(&self.child);
    }

    /// A door opens to this sequence from now on, or to none. A watcher that is gone is found out when it is listened
    /// to.
    pub(in crate::legacy) fn renew(&self, door: usize, sequence: Option<&KnockSequence>) {
        let text = sequence.map(ToString::to_string).unwrap_or_default();
        let door = u32::try_from(door).unwrap_or(u32::MAX);
        let _ = self.channel.send(&ToLegacyWatcher::Sequence(door, text.as_bytes()).to_bytes());
    }

    /// Tells it the addresses that are knocked at, if they have changed.
    pub(in crate::legacy) fn send_addresses(&mut self, watch_config: &LegacyWatchConfig) {
        let mut addresses = match watch_config.interfaces.as_slice() {
            [] => host::own_addresses(),
            names => names.iter().flat_map(|name| host::addresses_of(name)).collect(),
        };
        addresses.retain(|address| address.is_ipv4() || !watch_config.only_v4);
        if addresses == self.addresses {
            return;
        }
        for address in &addresses {
            let _ = self.channel.send(&ToLegacyWatcher::Address(*address).to_bytes());
        }
        let _ = self.channel.send(&ToLegacyWatcher::Addresses.to_bytes());
        self.addresses = addresses;
    }

    fn instruct(&self, watch_config: &LegacyWatchConfig, some: bool) -> std::io::Result<()> {
        for text in watch_config.config.chunks(TEXT_MAX) {
            self.channel.send(&ToLegacyWatcher::Config(text).to_bytes())?;
        }
        for name in &watch_config.interfaces {
            self.channel.send(&ToLegacyWatcher::Interface(name).to_bytes())?;
        }
        if let Some(log) = &watch_config.log {
            self.channel.send(&ToLegacyWatcher::Log(log.clone()).to_bytes())?;
        }
        if let Some(identity) = watch_config.identity {
            self.channel.send(&ToLegacyWatcher::Become(identity).to_bytes())?;
        }
        self.channel.send(&ToLegacyWatcher::Go { only_v4: watch_config.only_v4, some }.to_bytes())
    }

    fn wait_until_it_watches(&mut self) -> Result<(), String> {
        let deadline = clock::steady().saturating_add(START_MAX);
        loop {
            let left = deadline.saturating_sub(clock::steady());
            if left.is_zero() {
                return Err("watcher: did not start within 10 s".to_owned());
            }
            poll::readable(&[self.as_fd()], left).map_err(|error| format!("watcher: {error}"))?;
            match self.try_recv() {
                Ok(None) => {}
                Ok(Some(FromLegacyWatcher::Watching)) => return Ok(()),
                Ok(Some(FromLegacyWatcher::Failed(reason))) => return Err(reason),
                Ok(Some(_)) => return Err("watcher: spoke before it watched".to_owned()),
                Err(LegacyWatcherError) => return Err("watcher: ended as it started".to_owned()),
            }
        }
    }
}

impl AsFd for LegacyWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for LegacyWatcher {
    fn drop(&mut self) {
        // Its end of the channel closes with ours, and it ends by itself; a hostile one is made to.
        if let Ok((unconnected, _)) = Channel::pair() {
            self.channel = unconnected;
        }
        spawn::end(&mut self.child, END_MAX);
    }
}
