//! What every watcher does, whatever it reads packets for: it takes its configuration from the keeper, opens the
//! captures, gives up all rights, and then waits for packets and messages until the keeper closes the channel.
//! A [`PacketReader`] says what packets mean.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use log::Level;
use zeroize::Zeroizing;

use crate::capture::{CaptureError, PacketLog, PollSource};
use crate::ipc::{FromShell, MESSAGE, OnMissingInterface, ToShell, VERSION};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::privileges::{self, Identity};
use crate::os::process::{sandbox, signals};
use crate::os::{clock, poll};
use spa_knock_core::knock::Now;

/// How long the loop sleeps at most, and so how often a watcher reports.
pub(crate) const TICK: Duration = Duration::from_secs(10);
/// Frames taken from one capture before the others have their turn.
pub(crate) const BATCH: usize = 256;

/// What packets mean to one kind of watcher.
pub(crate) trait PacketReader {
    /// Where its packets come from.
    type Capture: PollSource;

    /// Takes one of its own messages.
    ///
    /// # Errors
    /// When it is none of them.
    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown>;

    /// Uses a configuration that is complete. The first one comes with `captures`: it returns a result for each capture
    /// that is to be opened.
    ///
    /// # Errors
    /// When the configuration is not valid; the reason for people.
    fn configure(&mut self, captures: Option<CaptureRequest>) -> Result<OpenResults<Self::Capture>, String>;

    /// Takes up to [`BATCH`] frames of one capture; returns how many there were.
    ///
    /// # Errors
    /// When the capture is lost, or the keeper is gone.
    fn read(&mut self, place: usize, capture: &mut Self::Capture, out: &Reports) -> Result<usize, ReadError>;

    /// Does what does not depend on a packet, after `taken` frames; returns how long to leave frames to gather.
    ///
    /// # Errors
    /// When the keeper is gone.
    fn run_due(
        &mut self,
        captures: &mut [Self::Capture],
        taken: usize,
        now: Now,
        out: &Reports,
    ) -> Result<Duration, Shutdown>;

    /// Until [`PacketReader::run_due`] has work, at most [`TICK`].
    fn time_to_deadline(&self) -> Duration;

    /// Logs what there is to say when the watcher ends.
    fn log_end(&self) {}
}

/// The captures that a reader is asked to open.
#[derive(Debug, Default)]
pub(crate) struct CaptureRequest {
    /// The interfaces; none at all = every one.
    pub(crate) interfaces: Vec<String>,
    /// The log that packets are read from, if they are not captured.
    pub(crate) log: Option<PacketLog>,
}

/// A result for each capture; why it is missing, for people.
pub(crate) type OpenResults<C> = Vec<Result<C, String>>;

/// The watcher cannot go on; the keeper has been told why, if it is still there.
#[derive(Debug)]
pub(crate) struct Shutdown;

/// Why a capture was not read to its end.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is lost; the others are still worth watching.
    Capture(CaptureError),
    /// The keeper is gone.
    Keeper(Shutdown),
}

impl From<CaptureError> for ReadError {
    fn from(error: CaptureError) -> Self {
        Self::Capture(error)
    }
}

impl From<Shutdown> for ReadError {
    fn from(shutdown: Shutdown) -> Self {
        Self::Keeper(shutdown)
    }
}

/// Where reports go: the channel to the keeper.
pub(crate) struct Reports(Channel);

/// Whether a report is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendResult {
    /// It is.
    Sent,
    /// The keeper is busy, and the channel is full.
    NoRoom,
}

impl Reports {
    /// Sends a report, and waits for room.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Shutdown> {
        self.0.send(message).map_err(|_| Shutdown)
    }

    /// Sends a report if there is room for it.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub(crate) fn try_send(&self, message: &[u8]) -> Result<SendResult, Shutdown> {
        match self.0.try_send(message) {
            Ok(()) => Ok(SendResult::Sent),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(SendResult::NoRoom),
            Err(_) => Err(Shutdown),
        }
    }

    fn say(&self, report: &FromShell) -> Result<(), Shutdown> {
        self.send(&report.to_bytes())
    }

    fn fail(&self, reason: String) -> Shutdown {
        // If the keeper is gone too, nobody is left to be told.
        let _ = self.say(&FromShell::Failed(reason));
        Shutdown
    }
}

/// Runs a watcher until the keeper closes its end of the channel, which is standard input. `name` is that of its log
/// lines, `process_name` what ps shows of it, at most 15 bytes; `level` is that of the line about its sandbox.
#[must_use]
pub(crate) fn run<R: PacketReader>(
    name: &'static str,
    process_name: &'static CStr,
    level: Level,
    reader: R,
) -> ExitCode {
    crate::os::log::start_without_waiting(name);
    let Ok(channel) = Channel::from_stdin() else {
        log::error!("started by spa-knockd, not by hand");
        return ExitCode::from(2);
    };
    if signals::ignore_all().is_err() {
        return ExitCode::FAILURE;
    }
    let mut shell = Shell {
        out: Reports(channel),
        level,
        process_name,
        reader,
        captures: Vec::new(),
        is_started: false,
        request: CaptureRequest::default(),
        identity: None,
    };
    let ended = shell.run();
    if shell.is_started {
        shell.reader.log_end();
    }
    // Closing captures and the channel takes system calls that are not allowed any more. The kernel closes them with the
    // process.
    std::mem::forget(shell);
    ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

struct Shell<R: PacketReader> {
    out: Reports,
    level: Level,
    process_name: &'static CStr,
    reader: R,
    captures: Vec<R::Capture>,
    is_started: bool,
    /// What a new configuration brings together until it is complete.
    request: CaptureRequest,
    identity: Option<Identity>,
}

/// Whether the keeper's end of the channel is open.
#[derive(PartialEq, Eq)]
enum KeeperEnd {
    Open,
    Closed,
}

impl<R: PacketReader> Shell<R> {
    fn run(&mut self) -> Result<(), Shutdown> {
        self.out.say(&FromShell::Version(VERSION.to_owned()))?;
        loop {
            let mut fds: Vec<BorrowedFd<'_>> = vec![self.out.0.as_fd()];
            fds.extend(self.captures.iter().map(AsFd::as_fd));
            let has_more = self.captures.iter().any(PollSource::has_more);
            let patience = if has_more { Duration::ZERO } else { self.reader.time_to_deadline() };
            let ready = poll::readable(&fds, patience).map_err(|_| Shutdown)?;
            let mut ready = ready.into_iter();
            let has_message = ready.next() == Some(true);
            let ready: Vec<bool> =
                ready.zip(&self.captures).map(|(ready, capture)| ready || capture.has_more()).collect();
            if has_message && self.take_messages()? == KeeperEnd::Closed {
                return Ok(());
            }
            if !self.is_started {
                continue;
            }
            let taken = self.read(&ready)?;
            let rest = self.reader.run_due(&mut self.captures, taken, clock::now(), &self.out)?;
            if !rest.is_zero() {
                poll::readable(&[self.out.0.as_fd()], rest).map_err(|_| Shutdown)?;
            }
        }
    }

    fn take_messages(&mut self) -> Result<KeeperEnd, Shutdown> {
        // Some carry keys.
        let mut buffer = Zeroizing::new([0; MESSAGE]);
        loop {
            match self.out.0.try_recv(&mut *buffer) {
                Ok(ReceiveResult::Message(length)) => {
                    self.handle_message(buffer.get(..length).unwrap_or_default())?
                }
                Ok(ReceiveResult::Nothing) => return Ok(KeeperEnd::Open),
                Ok(ReceiveResult::Closed) => return Ok(KeeperEnd::Closed),
                Err(_) => return Err(Shutdown),
            }
        }
    }

    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown> {
        match ToShell::read(message) {
            Some(ToShell::Interface(name)) => self.request.interfaces.push(name),
            Some(ToShell::Log(log)) => self.request.log = Some(log),
            Some(ToShell::Become(identity)) => self.identity = Some(identity),
            Some(ToShell::Go(missing)) => self.use_configuration(missing)?,
            None => self.reader.handle_message(message)?,
        }
        Ok(())
    }

    fn use_configuration(&mut self, missing: OnMissingInterface) -> Result<(), Shutdown> {
        let (request, identity) = (std::mem::take(&mut self.request), self.identity.take());
        let first = (!self.is_started).then_some(request);
        let results = self.reader.configure(first).map_err(|reason| self.out.fail(reason))?;
        if self.is_started {
            return Ok(());
        }
        let mut lost = Vec::new();
        for result in results {
            match result {
                Ok(capture) => self.captures.push(capture),
                Err(reason) => lost.push(reason),
            }
        }
        if self.captures.is_empty() || (missing == OnMissingInterface::Fail && !lost.is_empty()) {
            return Err(self.out.fail(lost.join("\n")));
        }
        // From here on nothing needs root, and every packet may be an attacker's.
        let waited_for = self.captures.len().saturating_add(1);
        let landlock = privileges::set_process_name(self.process_name)
            .and_then(|()| privileges::confine(identity))
            .and_then(|()| sandbox::enter(&self.out.0, waited_for))
            .map_err(|error| self.out.fail(format!("watcher: {error}")))?;
        log::log!(self.level, "confined: seccomp, landlock ABI {landlock}");
        self.is_started = true;
        self.out.say(&FromShell::Watching)?;
        lost.into_iter().try_for_each(|reason| self.out.say(&FromShell::Lost(reason)))
    }

    /// Reads the captures that are ready; returns how many frames there were.
    fn read(&mut self, ready: &[bool]) -> Result<usize, Shutdown> {
        let mut taken = 0_usize;
        // From the last on: one that is lost is taken out of the list.
        for (place, _) in ready.iter().enumerate().rev().filter(|(_, ready)| **ready) {
            let Some(capture) = self.captures.get_mut(place) else { continue };
            match self.reader.read(place, capture, &self.out) {
                Ok(frames) => taken = taken.saturating_add(frames),
                Err(ReadError::Capture(error)) => self.remove_capture(place, error.to_string())?,
                Err(ReadError::Keeper(shutdown)) => return Err(shutdown),
            }
        }
        Ok(taken)
    }

    /// One interface is gone; the others are still worth watching.
    fn remove_capture(&mut self, place: usize, reason: String) -> Result<(), Shutdown> {
        // Closing it takes system calls that are not allowed any more. It goes with the process, which is replaced soon.
        std::mem::forget(self.captures.remove(place));
        if self.captures.is_empty() {
            self.reader.run_due(&mut self.captures, 0, clock::now(), &self.out)?;
            return Err(self.out.fail(reason));
        }
        self.out.say(&FromShell::Lost(reason))
    }
}
