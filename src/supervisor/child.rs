//! Handle to a watcher process of either kind: starts, configures and ends it, and reads its messages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use super::program::Program;
use super::restart::SILENCE_MAX;
use crate::capture::PacketLog;
use crate::ipc::{Bytes, FromShell, MESSAGE, OnMissingInterface, ToShell, VERSION};
use crate::os::host::{self, LinkState};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::capabilities::{self, Capability};
use crate::os::process::privileges::Identity;
use crate::os::process::spawn;
use crate::os::{clock, files, poll};
use spa_knock_core::knock::Steady;

/// How long opening the captures may take.
const START_MAX: Duration = Duration::from_secs(10);
/// How long a watcher may take to exit when asked to.
const END_MAX: Duration = Duration::from_secs(1);

/// Configuration of the captures of either kind of watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaptureConfig {
    /// Whether it captures packets, which requires a capability.
    pub(crate) captures: bool,
    /// The interfaces; empty = all.
    pub(crate) interfaces: Vec<String>,
    /// The log to read packets from, if they are not captured.
    pub(crate) log: Option<PacketLog>,
    /// The user that it switches to; none = keep the user.
    pub(crate) identity: Option<Identity>,
}

/// A running watcher. Dropping it ends it.
pub(crate) struct WatcherChild {
    child: Child,
    channel: Channel,
    /// When it was started.
    since: Steady,
    /// When its last message was received.
    last_message: Steady,
}

/// The watcher has exited, or closed its channel.
#[derive(Debug)]
pub(crate) struct Disconnected;

impl CaptureConfig {
    /// The interfaces to capture on that do not exist or are down.
    pub(crate) fn missing_interfaces(&self) -> Vec<&str> {
        let names = self.interfaces.iter().filter(|_| self.captures).map(String::as_str);
        names.filter(|name| host::link(name) != LinkState::Up).collect()
    }

    /// Whether all configured interfaces are missing.
    pub(crate) fn misses_everything(&self) -> bool {
        !self.interfaces.is_empty() && self.missing_interfaces().len() == self.interfaces.len()
    }
}

impl WatcherChild {
    /// Starts a watcher, sends its configuration and waits until it is watching. `messages` are those that only its
    /// kind understands.
    ///
    /// # Errors
    /// Why it is not watching, as human-readable text.
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
        let child = if config.captures {
            capabilities::with_ambient(&[Capability::CAP_NET_RAW], start)
        } else {
            start()
        };
        let child = child.map_err(|error| format!("{}: {}", program.path(), files::io_error_text(&error)))?;
        let now = clock::steady();
        let mut watcher = Self { child, channel, since: now, last_message: now };
        let deadline = now.plus(START_MAX);
        // A watcher of another version must not receive keys.
        watcher.check_version(program, deadline)?;
        let configured = watcher.configure(config, missing, messages);
        // If it exits early, its own message explains more than an error of the channel.
        watcher.wait_until_it_watches(program, deadline)?;
        configured.map_err(plain)?;
        Ok(watcher)
    }

    /// Sends a complete configuration.
    ///
    /// # Errors
    /// If the watcher has exited, or does not read it in time.
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
            // A watcher that reads each message just before its timeout must not delay the keeper either.
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
    /// If the watcher has exited or does not read.
    #[cfg(feature = "legacy")]
    pub(crate) fn send(&self, message: &[u8]) -> std::io::Result<()> {
        self.channel.send(message)
    }

    /// Sends one message if there is room for it. Returns whether there was.
    pub(crate) fn try_send(&self, message: &[u8]) -> bool {
        self.channel.try_send(message).is_ok()
    }

    /// Receives one message, if there is one; returns its length.
    ///
    /// # Errors
    /// If the watcher has exited.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        match self.channel.try_recv(buffer) {
            Ok(ReceiveResult::Message(length)) => {
                self.last_message = clock::steady();
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

    /// Time since its last message.
    pub(crate) const fn silence(&self, now: Steady) -> Duration {
        now.since(self.last_message)
    }

    /// When it will have been silent for too long, unless it sends a message before.
    pub(crate) const fn silence_deadline(&self) -> Steady {
        self.last_message.plus(SILENCE_MAX)
    }

    /// Kills it without waiting until it exits: a watcher that hangs does not exit by itself.
    fn kill(&mut self) {
        spawn::kill_group(&self.child);
    }

    fn check_version(&mut self, program: &Program, deadline: Steady) -> Result<(), String> {
        match self.next_report(program, deadline)? {
            FromShell::Version(version) if version == VERSION => Ok(()),
            FromShell::Version(version) => Err(format!(
                "{}: has version {version}, but this daemon has version {VERSION}\n\
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

    /// Waits for one of the messages that every watcher sends while it starts.
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
                Err(Disconnected) => return Err("watcher: exited while starting".to_owned()),
            }
        }
    }
}

/// Removes and kills a watcher that has sent no message for too long; returns it with the length of its silence in
/// seconds. Call this after receiving its messages: after a pause of the keeper itself, they are still in the channel.
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
        // When the keeper's end of the channel is closed, the watcher exits by itself. A hostile one is killed.
        if let Ok((unconnected, _)) = Channel::pair() {
            self.channel = unconnected;
        }
        spawn::wait_or_kill(&mut self.child, END_MAX);
    }
}
