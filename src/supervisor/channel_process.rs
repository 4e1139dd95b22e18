//! A process of ours with a channel as its standard input: started from the open file of its program, and ended when its
//! handle is dropped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use super::program::Program;
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::spawn;
use crate::os::{clock, files, poll};
use spa_knock_core::knock::Steady;

/// How long starting may take.
pub(crate) const START_MAX: Duration = Duration::from_secs(10);
/// How long it may take to exit when asked to.
const END_MAX: Duration = Duration::from_secs(1);

/// A running process. Dropping it ends it.
pub(crate) struct ChannelProcess {
    /// What it is, for messages.
    role: &'static str,
    child: Child,
    channel: Channel,
    /// When it was started.
    since: Steady,
    /// When its last message was received.
    last_message: Steady,
}

/// The process has exited, or closed its channel.
#[derive(Debug)]
pub(crate) struct Disconnected;

impl ChannelProcess {
    /// Starts it, with these environment variables besides those of its log.
    ///
    /// # Errors
    /// Why it cannot be started, as human-readable text.
    pub(crate) fn start(
        program: &Program,
        role: &'static str,
        socket: Option<OwnedFd>,
        environment: &[(&str, &str)],
    ) -> Result<Self, String> {
        let (channel, theirs) =
            Channel::pair().map_err(|error| format!("{role}: {}", files::io_error_text(&error)))?;
        let child = spawn::start_with_channel(program.as_fd(), program.name(), theirs, socket, environment);
        let child = child.map_err(|error| format!("{}: {}", program.path(), files::io_error_text(&error)))?;
        let now = clock::steady();
        Ok(Self { role, child, channel, since: now, last_message: now })
    }

    /// Sends one message, waiting up to two seconds for room.
    ///
    /// # Errors
    /// If it has exited or does not read.
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
    /// If it has exited.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Disconnected> {
        match self.channel.try_recv(buffer) {
            Ok(ReceiveResult::Message(length)) => {
                self.last_message = clock::steady();
                Ok(Some(length))
            }
            Ok(ReceiveResult::Nothing) => Ok(None),
            Ok(ReceiveResult::Closed) | Err(_) => Err(Disconnected),
        }
    }

    /// Waits for one of the messages that it sends while it starts; returns its length.
    ///
    /// # Errors
    /// If it exits, or sends none before the deadline: the reason as human-readable text.
    pub(crate) fn recv_before(&mut self, deadline: Steady, buffer: &mut [u8]) -> Result<usize, String> {
        let role = self.role;
        loop {
            let left = deadline.since(clock::steady());
            if left.is_zero() {
                return Err(format!("{role}: did not start within {} s", START_MAX.as_secs()));
            }
            poll::readable(&[self.as_fd()], left).map_err(|error| format!("{role}: {error}"))?;
            match self.try_recv(buffer) {
                Ok(None) => {}
                Ok(Some(length)) => return Ok(length),
                Err(Disconnected) => return Err(format!("{role}: exited while starting")),
            }
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

    /// When it will have been silent for this long, unless it sends a message before.
    pub(crate) const fn silence_deadline(&self, longest: Duration) -> Steady {
        self.last_message.plus(longest)
    }

    /// Kills it without waiting until it exits: a process that hangs does not exit by itself.
    pub(crate) fn kill(&mut self) {
        spawn::kill_group(&self.child);
    }
}

/// Why a program of another version is not used.
pub(crate) fn other_version(program: &Program, theirs: &str, ours: &str) -> String {
    format!(
        "{}: has version {theirs}, but this daemon has version {ours}\n\
         hint: install all programs of one version, then restart the daemon",
        program.path()
    )
}

impl AsFd for ChannelProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for ChannelProcess {
    fn drop(&mut self) {
        // When the keeper's end of the channel is closed, the process exits by itself. A hostile one is killed.
        if let Ok((unconnected, _)) = Channel::pair() {
            self.channel = unconnected;
        }
        spawn::wait_or_kill(&mut self.child, END_MAX);
    }
}
