//! The watcher: sees datagrams, passes on those that a client signed, and can do nothing else.

use std::hash::RandomState;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use super::flood::FloodDetector;
use crate::capture::{BandLog, Capture, CaptureEvent, CaptureStats, PacketLog, PcapLive, Socket};
use crate::ipc::{
    CaptureSource, FromWatcher, MESSAGE, OnMissingInterface, ReceivedKnock, ToWatcher, WatcherStats,
};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::net::udp::UdpPort;
use crate::os::process::privileges::{self, Identity};
use crate::os::process::{sandbox, signals};
use crate::os::{clock, poll};
use spa_knock_core::auth::{WatchedKey, Watcher};
use spa_knock_core::knock::KnockRange;

use zeroize::Zeroizing;

/// How long the loop sleeps at most, and so how often the coming minute's hints are made ahead, and the keeper is told
/// what has been seen.
const TICK: Duration = Duration::from_secs(10);
/// Frames taken from one source before the others have their turn.
const BATCH: usize = 256;
/// Port sequences passed on before datagrams have their turn again, and how long to wait for the next one where there
/// were too many.
const SEQUENCES: usize = 16;
const SEQUENCES_REST: Duration = Duration::from_millis(10);
/// How long a flood is left to gather. A capture's ring has room for three million frames a second then.
const REST: Duration = Duration::from_millis(1);

/// Runs until the keeper closes its end of the channel.
#[must_use]
pub(crate) fn main() -> ExitCode {
    crate::os::log::start_without_waiting("spa-knockd watch");
    let Ok(channel) = Channel::from_stdin() else { return ExitCode::FAILURE };
    if signals::ignore_all().is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(mut running) = NativeReader::start(channel) else { return ExitCode::FAILURE };
    let ended = running.run();
    // Closing captures takes calls that are not allowed any more; they close with the process.
    std::mem::forget(running);
    ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// The watcher cannot go on; the keeper has been told why, if it is still there.
struct Shutdown;

struct NativeReader {
    channel: Channel,
    captures: Vec<Box<dyn Capture>>,
    watcher: Watcher,
    /// What a new set of keys brings together, until it is whole.
    coming: PendingConfig,
    prepared: Duration,
    pace: FloodDetector,
    /// The message of a sequence that found no room. Copies of its packets would not bring it again: only a new port
    /// does.
    held: Option<Zeroizing<Vec<u8>>>,
    /// Of captures that are gone.
    intake: Option<CaptureStats>,
}

#[derive(Default)]
struct PendingConfig {
    how: Option<WatchParams>,
    interfaces: Vec<String>,
    log: Option<PacketLog>,
    identity: Option<Identity>,
    clients: Vec<WatchedKey>,
}

#[derive(Clone, Copy)]
struct WatchParams {
    source: CaptureSource,
    port: u16,
    knock_range: Option<KnockRange>,
    window: Duration,
    missing: OnMissingInterface,
}

impl NativeReader {
    /// Receives the first orders and opens the captures.
    fn start(channel: Channel) -> Result<Self, Shutdown> {
        let mut running = Self {
            channel,
            captures: Vec::new(),
            watcher: Watcher::new(Duration::ZERO, []),
            coming: PendingConfig::default(),
            prepared: clock::steady(),
            pace: FloodDetector::default(),
            held: None,
            intake: None,
        };
        let mut buffer = Zeroizing::new([0; MESSAGE]);
        while running.captures.is_empty() {
            match running.channel.recv(&mut *buffer) {
                Ok(ReceiveResult::Message(length)) => {
                    running.handle_message(buffer.get(..length).unwrap_or_default())?
                }
                Ok(ReceiveResult::Nothing) => {}
                Ok(ReceiveResult::Closed) | Err(_) => return Err(Shutdown),
            }
        }
        Ok(running)
    }

    fn run(&mut self) -> Result<(), Shutdown> {
        loop {
            let mut fds: Vec<BorrowedFd<'_>> = vec![self.channel.as_fd()];
            fds.extend(self.captures.iter().map(|capture| capture.descriptor()));
            let patience = match (self.captures.iter().any(|capture| capture.has_more()), &self.held) {
                (true, _) => Duration::ZERO,
                (false, None) if !self.watcher.has_sequences() => TICK,
                (false, _) => SEQUENCES_REST,
            };
            let ready = poll::readable(&fds, patience).map_err(|_| Shutdown)?;
            let mut ready = ready.into_iter();
            if ready.next() == Some(true) && self.take_orders()? == Channels::Closed {
                let counts = self.watcher.counts();
                log::info!("ended; datagrams of a knock's length since the start: {counts}");
                return Ok(());
            }
            // From the last on: one that is lost is taken out of the list.
            let ready: Vec<bool> =
                ready.zip(&self.captures).map(|(ready, capture)| ready || capture.has_more()).collect();
            let mut taken = 0_usize;
            for (place, _) in ready.iter().enumerate().rev().filter(|(_, ready)| **ready) {
                taken = taken.saturating_add(self.take_datagrams(place)?);
            }
            self.pass_sequences()?;
            let now = clock::now();
            if self.pace.took(taken, now.steady)
                && taken < BATCH
                && self.captures.iter().all(|c| c.has_room())
            {
                poll::readable(&[self.channel.as_fd()], REST).map_err(|_| Shutdown)?;
            }
            if now.steady.saturating_sub(self.prepared) >= TICK {
                self.watcher.prepare(now.wall);
                self.prepared = now.steady;
                self.tell_what_was_seen()?;
            }
        }
    }

    fn take_orders(&mut self) -> Result<Channels, Shutdown> {
        let mut buffer = Zeroizing::new([0; MESSAGE]);
        loop {
            match self.channel.try_recv(&mut *buffer) {
                Ok(ReceiveResult::Message(length)) => {
                    self.handle_message(buffer.get(..length).unwrap_or_default())?
                }
                Ok(ReceiveResult::Nothing) => return Ok(Channels::Open),
                Ok(ReceiveResult::Closed) => return Ok(Channels::Closed),
                Err(_) => return Err(Shutdown),
            }
        }
    }

    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown> {
        match ToWatcher::read(message).ok_or(Shutdown)? {
            ToWatcher::Watch { source, port, knock_range, window, missing } => {
                let how = WatchParams { source, port, knock_range, window, missing };
                self.coming = PendingConfig { how: Some(how), ..PendingConfig::default() };
            }
            ToWatcher::Interface(name) => self.coming.interfaces.push(name),
            ToWatcher::Log(log) => self.coming.log = Some(log),
            ToWatcher::Become(identity) => self.coming.identity = Some(identity),
            ToWatcher::Key(key) => self.coming.clients.push(key),
            ToWatcher::Count => self.tell_what_was_seen()?,
            ToWatcher::Go => {
                let coming = std::mem::take(&mut self.coming);
                let how = coming.how.ok_or(Shutdown)?;
                let starts = self.captures.is_empty();
                let lost = if starts { self.open(how, coming.interfaces, coming.log)? } else { Vec::new() };
                if starts {
                    if let Some(knock_range) = how.knock_range {
                        self.watcher.watch_band(knock_range, RandomState::new());
                    }
                    // From here on nothing needs root, and every byte that comes is a stranger's.
                    let waited_for = self.captures.len().saturating_add(1);
                    let landlock = privileges::confine(coming.identity)
                        .and_then(|()| sandbox::enter(&self.channel, waited_for))
                        .map_err(|error| self.fail(format!("watcher: {error}")))?;
                    log::info!("confined: seccomp, landlock ABI {landlock}");
                }
                self.watcher.replace_clients(how.window, coming.clients);
                self.watcher.prepare(clock::wall());
                if starts {
                    self.report(&FromWatcher::Watching)?;
                }
                lost.into_iter().try_for_each(|reason| self.report(&FromWatcher::Lost(reason)))?;
            }
        }
        Ok(())
    }

    /// Opens what there is to watch; returns why some of it is missing, where some may be.
    fn open(
        &mut self,
        how: WatchParams,
        interfaces: Vec<String>,
        log: Option<PacketLog>,
    ) -> Result<Vec<String>, Shutdown> {
        let WatchParams { source, port, knock_range, missing, .. } = how;
        let mut opened: Vec<Result<Box<dyn Capture>, String>> = match source {
            CaptureSource::Socket => {
                let socket = UdpPort::from_stdout().map(|socket| boxed(Socket::new(socket, port)));
                vec![socket.map_err(|error| error.to_string())]
            }
            CaptureSource::Capture if interfaces.is_empty() => vec![live(None, port, knock_range)],
            CaptureSource::Capture => {
                interfaces.iter().map(|name| live(Some(name), port, knock_range)).collect()
            }
        };
        if let (Some(knock_range), Some(log)) = (knock_range, log) {
            opened
                .push(super::log_follower::open(log, interfaces).map(|log| boxed(BandLog(log, knock_range))));
        }
        let mut lost = Vec::new();
        for capture in opened {
            match capture {
                Ok(capture) => self.captures.push(capture),
                Err(reason) => lost.push(reason),
            }
        }
        if self.captures.is_empty() || (missing == OnMissingInterface::Fail && !lost.is_empty()) {
            return Err(self.fail(lost.join("\n")));
        }
        Ok(lost)
    }

    /// Returns how many frames there were.
    fn take_datagrams(&mut self, place: usize) -> Result<usize, Shutdown> {
        let Some(capture) = self.captures.get_mut(place) else { return Ok(0) };
        // Read once for all of them: a batch takes less than a millisecond.
        let now = clock::now();
        for taken in 0..BATCH {
            let segment = match capture.next() {
                Ok(CaptureEvent::Datagram(segment)) => segment,
                Ok(CaptureEvent::Touch(touch)) => {
                    self.watcher.record_hit(touch.source, touch.to, touch.port, now.steady);
                    continue;
                }
                Ok(CaptureEvent::Other) => continue,
                Ok(CaptureEvent::Empty) => return Ok(taken),
                Err(error) => return self.remove_capture(place, error.to_string()).map(|()| taken),
            };
            let Ok(knock) = self.watcher.judge(segment.payload, now) else { continue };
            let received = ReceivedKnock {
                source: segment.source,
                destination: segment.destination.ip(),
                interface: segment.interface.unwrap_or(0),
                knock,
            };
            // A keeper that is busy gets the client's next copy.
            try_report(&self.channel, &FromWatcher::Knock(received))?;
        }
        Ok(BATCH)
    }

    /// After the datagrams, so that they find room in the channel first.
    fn pass_sequences(&mut self) -> Result<(), Shutdown> {
        for _ in 0..SEQUENCES {
            let next = || {
                let sequence = self.watcher.next_sequence(clock::now())?;
                Some(FromWatcher::Sequence(sequence).to_bytes())
            };
            let Some(message) = self.held.take().or_else(next) else { break };
            if try_send(&self.channel, &message)? == SendResult::NoRoom {
                self.held = Some(message);
                break;
            }
        }
        Ok(())
    }

    /// One interface is gone; the others are still worth watching.
    fn remove_capture(&mut self, place: usize, reason: String) -> Result<(), Shutdown> {
        let mut capture = self.captures.remove(place);
        self.intake = self.intake.into_iter().chain(capture.intake()).reduce(CaptureStats::plus);
        // Closing it takes calls that are not allowed any more. It goes with the process, which is replaced soon.
        std::mem::forget(capture);
        if self.captures.is_empty() {
            self.tell_what_was_seen()?;
            Err(self.fail(reason))
        } else {
            self.report(&FromWatcher::Lost(reason))
        }
    }

    /// Numbers alone, and never waited for: a keeper that is busy gets the next ones.
    fn tell_what_was_seen(&mut self) -> Result<(), Shutdown> {
        let captures = self.captures.iter_mut().filter_map(|capture| capture.intake());
        let intake = self.intake.into_iter().chain(captures).reduce(CaptureStats::plus);
        let seen = FromWatcher::Seen(WatcherStats { counts: self.watcher.counts(), intake });
        // Before the totals: who asked for those has all of it when they come.
        let mut ended = None;
        self.watcher.report_throttled(|fingerprint, count| {
            let sent = try_send(&self.channel, &FromWatcher::Throttled(fingerprint, count).to_bytes());
            sent.map_err(|error| ended = Some(error)).is_ok_and(|sent| sent == SendResult::Whole)
        });
        ended.map_or(Ok(()), Err)?;
        try_report(&self.channel, &seen)
    }

    fn report(&self, report: &FromWatcher<'_>) -> Result<(), Shutdown> {
        self.channel.send(&report.to_bytes()).map_err(|_| Shutdown)
    }

    fn fail(&self, reason: String) -> Shutdown {
        // If the keeper is gone too, nobody is left to be told.
        let _ = self.report(&FromWatcher::Failed(reason));
        Shutdown
    }
}

/// Reports if there is room for it.
fn try_report(channel: &Channel, report: &FromWatcher<'_>) -> Result<(), Shutdown> {
    try_send(channel, &report.to_bytes()).map(|_| ())
}

fn try_send(channel: &Channel, message: &[u8]) -> Result<SendResult, Shutdown> {
    match channel.try_send(message) {
        Ok(()) => Ok(SendResult::Whole),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(SendResult::NoRoom),
        Err(_) => Err(Shutdown),
    }
}

/// Whether a message is under way.
#[derive(PartialEq, Eq)]
enum SendResult {
    Whole,
    NoRoom,
}

fn live(
    interface: Option<&str>,
    port: u16,
    knock_range: Option<KnockRange>,
) -> Result<Box<dyn Capture>, String> {
    PcapLive::open(interface, port, knock_range).map(boxed).map_err(|error| error.to_string())
}

fn boxed(capture: impl Capture + 'static) -> Box<dyn Capture> {
    Box::new(capture)
}

#[derive(PartialEq, Eq)]
enum Channels {
    Open,
    Closed,
}
