//! A watcher process as the keeper handles it, of either kind: started, configured, read, and ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use super::program::Program;
use super::restart::SILENCE_MAX;
use crate::capture::PacketLog;
use crate::ipc::{Bytes, FromShell, MESSAGE, OnMissingInterface, ToShell, VERSION};
use crate::os::host::{self, Capability, LinkState};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::privileges::Identity;
use crate::os::process::{capabilities, spawn};
use crate::os::{clock, files, poll};
use spa_knock_core::knock::Steady;

/// How long opening the captures may take.
const START_MAX: Duration = Duration::from_secs(10);
/// How long a watcher that was asked to end may take.
const END_MAX: Duration = Duration::from_secs(1);

/// What a watcher of either kind watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaptureConfig {
    /// Whether it captures packets, which takes a capability.
    pub(crate) captures: bool,
    /// Where; none at all = every interface.
    pub(crate) interfaces: Vec<String>,
    /// The log that packets are read from, if they are not captured.
    pub(crate) log: Option<PacketLog>,
    /// The user that it becomes, if it becomes another one.
    pub(crate) identity: Option<Identity>,
}

/// A running watcher. Dropping it ends it.
pub(crate) struct WatcherChild {
    child: Child,
    channel: Channel,
    /// When it was started.
    since: Steady,
    /// When its last message came.
    heard: Steady,
}

/// The watcher is gone.
#[derive(Debug)]
pub(crate) struct Disconnected;

impl CaptureConfig {
    /// The interfaces to capture on that are not there, or down.
    pub(crate) fn missing_interfaces(&self) -> Vec<&str> {
        let names = self.interfaces.iter().filter(|_| self.captures).map(String::as_str);
        names.filter(|name| host::link(name) != LinkState::Up).collect()
    }

    /// Whether all of them are missing.
    pub(crate) fn misses_everything(&self) -> bool {
        !self.interfaces.is_empty() && self.missing_interfaces().len() == self.interfaces.len()
    }
}

impl WatcherChild {
    /// Starts a watcher, gives it its configuration and waits until it watches. `messages` are those that only its kind
    /// has.
    ///
    /// # Errors
    /// Why it does not watch, for people.
    pub(crate) fn start(
        program: &Program,
        config: &CaptureConfig,
        missing: OnMissingInterface,
        socket: Option<OwnedFd>,
        messages: impl Iterator<Item = Bytes>,
    ) -> Result<Self, String> {
        let plain = |error: std::io::Error| format!("watcher: {}", files::io_error_text(&error));
        let (channel, theirs) = Channel::pair().map_err(plain)?;
        let start = || spawn::start_watcher(program.as_fd(), program.name(), theirs, socket);
        let child =
            if config.captures { capabilities::with_ambient(&[Capability::NetRaw], start) } else { start() };
        let child = child.map_err(|error| format!("{}: {}", program.path(), files::io_error_text(&error)))?;
        let now = clock::steady();
        let mut watcher = Self { child, channel, since: now, heard: now };
        let deadline = now.plus(START_MAX);
        // One of another version gets no key.
        watcher.check_version(program, deadline)?;
        let configured = watcher.configure(config, missing, messages);
        // Of one that ended early, its own words say more than that the channel broke.
        watcher.wait_until_it_watches(program, deadline)?;
        configured.map_err(plain)?;
        Ok(watcher)
    }

    /// Sends a whole configuration.
    ///
    /// # Errors
    /// When the watcher is gone, or does not take it in time.
    pub(crate) fn configure(
        &self,
        config: &CaptureConfig,
        missing: OnMissingInterface,
        messages: impl Iterator<Item = Bytes>,
    ) -> std::io::Result<()> {
        let interfaces = config.interfaces.iter().cloned().map(ToShell::Interface);
        let log = config.log.clone().map(ToShell::Log);
        let identity = config.identity.map(ToShell::Become);
        let common = interfaces.chain(log).chain(identity).chain([ToShell::Go(missing)]);
        let deadline = clock::steady().plus(START_MAX);
        for message in messages.chain(common.map(|message| message.to_bytes())) {
            // One that takes each message a little before its timeout must not hold us up either.
            if clock::steady() >= deadline {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.channel.send(&message)?;
        }
        Ok(())
    }

    /// Sends one message, waiting up to two seconds for room.
    ///
    /// # Errors
    /// When the watcher is gone or does not read.
    #[cfg(feature = "legacy")]
    pub(crate) fn send(&self, message: &[u8]) -> std::io::Result<()> {
        self.channel.send(message)
    }

    /// Sends one message if there is room for it; whether there was.
    pub(crate) fn try_send(&self, message: &[u8]) -> bool {
        self.channel.try_send(message).is_ok()
    }

    /// Takes one report, if there is one; returns its length.
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

    /// When it was started.
    pub(crate) const fn since(&self) -> Steady {
        self.since
    }

    /// How long ago its last message came.
    pub(crate) const fn silence(&self, now: Steady) -> Duration {
        now.since(self.heard)
    }

    /// When it has been silent for too long, unless a message comes before.
    pub(crate) const fn silence_deadline(&self) -> Steady {
        self.heard.plus(SILENCE_MAX)
    }

    /// Kills it without waiting for its end: one that hangs does not end by itself.
    fn kill(&mut self) {
        spawn::kill_group(&self.child);
    }

    fn check_version(&mut self, program: &Program, deadline: Steady) -> Result<(), String> {
        match self.next_report(program, deadline)? {
            FromShell::Version(version) if version == VERSION => Ok(()),
            FromShell::Version(version) => Err(format!(
                "{}: its version is {version}, that of this daemon is {VERSION}\n\
                 hint: install all programs of one version, then restart the daemon",
                program.path()
            )),
            FromShell::Failed(reason) => Err(reason),
            FromShell::Watching | FromShell::Lost(_) => Err(not_ours(program)),
        }
    }

    fn wait_until_it_watches(&mut self, program: &Program, deadline: Steady) -> Result<(), String> {
        match self.next_report(program, deadline)? {
            FromShell::Watching => Ok(()),
            FromShell::Failed(reason) => Err(reason),
            FromShell::Version(_) | FromShell::Lost(_) => Err(not_ours(program)),
        }
    }

    /// Waits for what every watcher says as it starts.
    fn next_report(&mut self, program: &Program, deadline: Steady) -> Result<FromShell, String> {
        let mut buffer = [0; MESSAGE];
        loop {
            let left = deadline.since(clock::steady());
            if left.is_zero() {
                return Err("watcher: did not start within 10 s".to_owned());
            }
            poll::readable(&[self.as_fd()], left).map_err(|error| format!("watcher: {error}"))?;
            match self.try_recv(&mut buffer) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    let report = FromShell::read(buffer.get(..length).unwrap_or_default());
                    return report.ok_or_else(|| not_ours(program));
                }
                Err(Disconnected) => return Err("watcher: ended as it started".to_owned()),
            }
        }
    }
}

/// Takes out and kills a watcher that hangs: one that has reported nothing for too long; and for how many seconds. To be
/// called after its messages have been taken: a keeper that was stopped itself has not seen them yet.
pub(crate) fn take_silent<W>(
    watcher: &mut Option<W>,
    child: impl Fn(&mut W) -> &mut WatcherChild,
) -> Option<(W, u64)> {
    let now = clock::steady();
    let mut silent = watcher.take_if(|watcher| child(watcher).silence(now) >= SILENCE_MAX)?;
    let process = child(&mut silent);
    let seconds = process.silence(now).as_secs();
    process.kill();
    Some((silent, seconds))
}

fn not_ours(program: &Program) -> String {
    format!("{}: is not the watcher of this daemon", program.path())
}

impl AsFd for WatcherChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for WatcherChild {
    fn drop(&mut self) {
        // Its end of the channel closes with ours, and it ends by itself; a hostile one is made to.
        if let Ok((unconnected, _)) = Channel::pair() {
            self.channel = unconnected;
        }
        spawn::end(&mut self.child, END_MAX);
    }
}
