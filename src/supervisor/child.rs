//! Handle to a watcher process of either kind: starts, configures and ends it, and reads its messages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub(crate) use super::channel_process::Disconnected;
use super::channel_process::{ChannelProcess, START_MAX, other_version};
use super::program::Program;
use super::restart::SILENCE_MAX;
use crate::capture::PacketLog;
use crate::ipc::{Bytes, FromShell, MESSAGE, OnMissingInterface, ToShell, VERSION};
use crate::os::host::{self, LinkState};
use crate::os::process::capabilities::{self, Capability};
use crate::os::process::privileges::Identity;
use crate::os::{clock, files};
use spa_knock_core::knock::Steady;

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
pub(crate) struct WatcherChild(ChannelProcess);

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
        let start = || ChannelProcess::start(program, "watcher", socket, &[]);
        let process =
            if config.captures { capabilities::with_ambient(&[Capability::NET_RAW], start) } else { start() };
        let mut watcher = Self(process?);
        let deadline = watcher.since().plus(START_MAX);
        // A watcher of another version must not receive keys.
        watcher.check_version(program, deadline)?;
        let configured = watcher.configure(config, missing, messages);
        // If it exits early, its own message explains more than an error of the channel.
        watcher.wait_until_it_watches(program, deadline)?;
        configured.map_err(|error| format!("watcher: {}", files::io_error_text(&error)))?;
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
            self.0.send(&message)?;
        }
        Ok(())
    }

    /// Sends one message, waiting up to two seconds for room.
    ///
    /// # Errors
    /// If the watcher has exited or does not read.
    #[cfg(feature = "legacy")]
    pub(crate) fn send(&self, message: &[u8]) -> std::io::Result<()> {
        self.0.send(message)
    }

    /// Sends one message if there is room for it. Returns whether there was.
    pub(crate) fn try_send(&self, message: &[u8]) -> bool {
        self.0.try_send(message)
    }

    /// Receives one message, if there is one; returns its length.
    ///
    /// # Errors
    /// If the watcher has exited.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        self.0.try_recv(buffer)
    }

    /// When it was started.
    pub(crate) const fn since(&self) -> Steady {
        self.0.since()
    }

    /// Time since its last message.
    pub(crate) const fn silence(&self, now: Steady) -> Duration {
        self.0.silence(now)
    }

    /// When it will have been silent for too long, unless it sends a message before.
    pub(crate) const fn silence_deadline(&self) -> Steady {
        self.0.silence_deadline(SILENCE_MAX)
    }

    fn check_version(&mut self, program: &Program, deadline: Steady) -> Result<(), String> {
        match self.next_report(program, deadline)? {
            FromShell::Version(version) if version == VERSION => Ok(()),
            FromShell::Version(version) => Err(other_version(program, &version, VERSION)),
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
        let length = self.0.recv_before(deadline, &mut buffer)?;
        FromShell::read(buffer.get(..length).unwrap_or_default()).ok_or_else(|| not_ours(program))
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
    process.0.kill();
    Some((silent, seconds))
}

fn not_ours(program: &Program) -> String {
    format!("{}: is not the watcher of this daemon", program.path())
}

impl AsFd for WatcherChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
