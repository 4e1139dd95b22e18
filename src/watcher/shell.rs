//! The part that all watchers share: receives the configuration from the keeper, opens the captures, drops privileges,
//! and then waits for packets and messages until the keeper closes the channel. A [`PacketReader`] interprets the
//! packets.

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

/// Maximum time that the loop sleeps, and so the interval of reports.
pub(crate) const TICK: Duration = Duration::from_secs(10);
/// How often a capture is read whose interface went down, and may be gone.
const DOUBT: Duration = Duration::from_secs(1);
/// Maximum number of frames read from one capture before the others are read.
pub(crate) const BATCH: usize = 256;

/// Interprets packets for one kind of watcher.
pub(crate) trait PacketReader {
    /// The source of its packets.
    type Capture: PollSource;

    /// Handles a message that only this kind of watcher understands.
    ///
    /// # Errors
    /// If the message is invalid.
    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown>;

    /// Applies a complete configuration. The first one comes with `captures`; the return value then has a result for
    /// each capture that must be opened.
    ///
    /// # Errors
    /// If the configuration is not valid; the reason as human-readable text.
    fn configure(&mut self, captures: Option<CaptureRequest>) -> Result<OpenResults<Self::Capture>, String>;

    /// Reads up to [`BATCH`] frames of one capture; returns their number.
    ///
    /// # Errors
    /// If the capture is lost, or the keeper is gone.
    fn read(&mut self, place: usize, capture: &mut Self::Capture, out: &Reports) -> Result<usize, ReadError>;

    /// Does the work that does not depend on a packet, after `taken` frames. Returns how long to wait before reading
    /// more frames.
    ///
    /// # Errors
    /// If the keeper is gone.
    fn run_due(
        &mut self,
        captures: &mut [Self::Capture],
        taken: usize,
        now: Now,
        out: &Reports,
    ) -> Result<Duration, Shutdown>;

    /// Time until [`PacketReader::run_due`] must be called, at most [`TICK`].
    fn time_to_deadline(&self) -> Duration;

    /// Logs statistics before the watcher exits.
    fn log_end(&self) {}
}

/// The captures that a reader is asked to open.
#[derive(Debug, Default)]
pub(crate) struct CaptureRequest {
    /// The interfaces; empty = all.
    pub(crate) interfaces: Vec<String>,
    /// The log to read packets from, if they are not captured.
    pub(crate) log: Option<PacketLog>,
}

/// A result for each capture; the error is human-readable text.
pub(crate) type OpenResults<C> = Vec<Result<C, String>>;

/// The watcher must exit; it has reported the reason to the keeper, unless the keeper is gone.
#[derive(Debug)]
pub(crate) struct Shutdown;

/// Why a capture was not read to its end.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The capture is lost; the watcher continues with the others.
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

/// The channel to the keeper, for reports.
pub(crate) struct Reports(Channel);

/// Whether a report was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendResult {
    /// It was sent.
    Sent,
    /// The keeper is busy, and the channel is full.
    NoRoom,
}

impl Reports {
    /// Sends a report; waits for room.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Shutdown> {
        self.0.send(message).map_err(|_| Shutdown)
    }

    /// Sends a report if there is room for it.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub(crate) fn try_send(&self, message: &[u8]) -> Result<SendResult, Shutdown> {
        match self.0.try_send(message) {
            Ok(()) => Ok(SendResult::Sent),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(SendResult::NoRoom),
            Err(_) => Err(Shutdown),
        }
    }

    fn send_report(&self, report: &FromShell) -> Result<(), Shutdown> {
        self.send(&report.to_bytes())
    }

    fn fail(&self, reason: String) -> Shutdown {
        // If the keeper is gone too, no one can receive the reason.
        let _ = self.send_report(&FromShell::Failed(reason));
        Shutdown
    }
}

/// Runs a watcher until the keeper closes its end of the channel, which is standard input. `name` is the name in log
/// lines, `process_name` the one that ps shows (at most 15 bytes); `level` is the level of the log line about the
/// sandbox.
#[must_use]
pub(crate) fn run<R: PacketReader>(
    name: &'static str,
    process_name: &'static CStr,
    level: Level,
    reader: R,
) -> ExitCode {
    crate::os::log::start_without_waiting(name);
    let Ok(channel) = Channel::from_stdin() else {
        log::error!("must be started by spa-knockd");
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
        doubtful: Vec::new(),
        is_started: false,
        request: CaptureRequest::default(),
        identity: None,
    };
    let result = shell.run();
    if shell.is_started {
        shell.reader.log_end();
    }
    // The sandbox does not allow the system calls that close captures and the channel. The kernel closes them when the
    // process exits.
    std::mem::forget(shell);
    result.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

struct Shell<R: PacketReader> {
    out: Reports,
    level: Level,
    process_name: &'static CStr,
    reader: R,
    captures: Vec<R::Capture>,
    /// For each capture, whether it was readable without a frame and has had none since. libpcap reports so that an
    /// interface went down, and does not make the descriptor readable again when the interface is removed after that: it
    /// must be read to find out.
    doubtful: Vec<bool>,
    is_started: bool,
    /// A new configuration that is not complete yet.
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
        self.out.send_report(&FromShell::Version(VERSION.to_owned()))?;
        loop {
            let mut fds: Vec<BorrowedFd<'_>> = vec![self.out.0.as_fd()];
            fds.extend(self.captures.iter().map(AsFd::as_fd));
            let has_more = self.captures.iter().any(PollSource::has_more);
            let patience = if has_more { Duration::ZERO } else { self.reader.time_to_deadline() };
            let patience = if self.doubtful.contains(&true) { patience.min(DOUBT) } else { patience };
            let ready = poll::readable(&fds, patience).map_err(|_| Shutdown)?;
            let mut ready = ready.into_iter();
            let has_message = ready.next() == Some(true);
            let ready: Vec<bool> = ready
                .zip(&self.captures)
                .zip(&self.doubtful)
                .map(|((ready, capture), doubtful)| ready || capture.has_more() || *doubtful)
                .collect();
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
        // Wiped, because some messages contain keys.
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
                Ok(capture) => {
                    self.captures.push(capture);
                    self.doubtful.push(false);
                }
                Err(reason) => lost.push(reason),
            }
        }
        if self.captures.is_empty() || (missing == OnMissingInterface::Fail && !lost.is_empty()) {
            return Err(self.out.fail(lost.join("\n")));
        }
        // From here on nothing needs root, and every packet may come from an attacker.
        let polled = self.captures.len().saturating_add(1);
        let landlock = privileges::set_process_name(self.process_name)
            .and_then(|()| privileges::confine(identity))
            .and_then(|()| sandbox::enter(&self.out.0, polled))
            .map_err(|error| self.out.fail(format!("watcher: {error}")))?;
        log::log!(self.level, "confined: seccomp, landlock ABI {landlock}");
        self.is_started = true;
        self.out.send_report(&FromShell::Watching)?;
        lost.into_iter().try_for_each(|reason| self.out.send_report(&FromShell::Lost(reason)))
    }

    /// Reads the captures that are ready; returns the number of frames.
    fn read(&mut self, ready: &[bool]) -> Result<usize, Shutdown> {
        let mut taken = 0_usize;
        // In reverse order, because a lost capture is removed from the list.
        for (place, _) in ready.iter().enumerate().rev().filter(|(_, ready)| **ready) {
            let Some(capture) = self.captures.get_mut(place) else { continue };
            match self.reader.read(place, capture, &self.out) {
                Ok(frames) => {
                    taken = taken.saturating_add(frames);
                    if let Some(doubtful) = self.doubtful.get_mut(place) {
                        *doubtful = frames == 0;
                    }
                }
                Err(ReadError::Capture(error)) => self.remove_capture(place, error.to_string())?,
                Err(ReadError::Keeper(shutdown)) => return Err(shutdown),
            }
        }
        Ok(taken)
    }

    /// Removes a lost capture; the watcher continues with the others, if there are any.
    fn remove_capture(&mut self, place: usize, reason: String) -> Result<(), Shutdown> {
        // The sandbox does not allow the system calls that close it. It is closed when the process exits, which is
        // replaced soon.
        std::mem::forget(self.captures.remove(place));
        self.doubtful.remove(place);
        if self.captures.is_empty() {
            self.reader.run_due(&mut self.captures, 0, clock::now(), &self.out)?;
            return Err(self.out.fail(reason));
        }
        self.out.send_report(&FromShell::Lost(reason))
    }
}
