//! The watcher of plain sequences: sees packets, tells what they mean for the doors, and can do nothing else.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use super::daemon::log_limiter::LogLimiter;
use super::daemon::twins::Twins;
use super::ipc::{FromLegacyWatcher, MESSAGE, ToLegacyWatcher};
use super::knockd::{
    Config, Door, KnockSequence, LegacyPacket, MatchEvent, MatchStage, Matcher, SequencePort,
};
use crate::capture::{LegacyCapture, PacketEvent, PacketLog, PacketSource};
use crate::os::net::seqpacket::{Channel, ReceiveResult};
use crate::os::process::privileges::{self, Identity};
use crate::os::process::{sandbox, signals};
use crate::os::{clock, poll};
use crate::packet::{self, TcpFlags, Transport};
use crate::watcher::log_follower;
use spa_knock_core::knock::{Protocol, Timestamp};

/// How long the loop sleeps at most.
const TICK: Duration = Duration::from_secs(10);
/// Frames taken from one capture before the others have their turn.
const BATCH: usize = 256;

/// Runs until the keeper closes its end of the channel.
#[must_use]
pub(crate) fn main() -> ExitCode {
    crate::os::log::start_without_waiting("knockd watch");
    let Ok(channel) = Channel::from_stdin() else { return ExitCode::FAILURE };
    if signals::ignore_all().is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(mut watch) = LegacyReader::start(channel) else { return ExitCode::FAILURE };
    let ended = watch.run();
    // Closing captures takes calls that are not allowed any more; they close with the process.
    std::mem::forget(watch);
    ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// The watcher cannot go on; the keeper has been told why, if it is still there.
struct LegacyShutdown;

struct LegacyReader {
    channel: Channel,
    captures: Vec<Box<dyn PacketSource>>,
    matcher: Matcher,
    twins: Twins,
    addresses: Vec<IpAddr>,
    only_v4: bool,
    quiet: LogLimiter,
    /// When the last sign of life was given, on the steady clock.
    alive: Duration,
}

/// What is to be watched, until it is said as a whole.
#[derive(Default)]
struct PendingDoors {
    config: Vec<u8>,
    interfaces: Vec<String>,
    log: Option<PacketLog>,
    identity: Option<Identity>,
}

impl LegacyReader {
    /// Receives the first orders, opens the captures and gives up all rights.
    fn start(channel: Channel) -> Result<Self, LegacyShutdown> {
        let mut coming = PendingDoors::default();
        let mut buffer = [0; MESSAGE];
        loop {
            let Ok(ReceiveResult::Message(length)) = channel.recv(&mut buffer) else {
                return Err(LegacyShutdown);
            };
            match ToLegacyWatcher::read(buffer.get(..length).unwrap_or_default()).ok_or(LegacyShutdown)? {
                ToLegacyWatcher::Config(text) => coming.config.extend_from_slice(text),
                ToLegacyWatcher::Interface(name) => coming.interfaces.push(name.to_owned()),
                ToLegacyWatcher::Log(log) => coming.log = Some(log),
                ToLegacyWatcher::Become(identity) => coming.identity = Some(identity),
                ToLegacyWatcher::Go { only_v4, some } => return Self::open(channel, coming, only_v4, some),
                _ => return Err(LegacyShutdown),
            }
        }
    }

    fn open(
        channel: Channel,
        coming: PendingDoors,
        only_v4: bool,
        some: bool,
    ) -> Result<Self, LegacyShutdown> {
        let fail = |reason: String| {
            // If the keeper is gone too, nobody is left to be told.
            let _ = channel.send(&FromLegacyWatcher::Failed(reason).to_bytes());
            LegacyShutdown
        };
        let doors = Config::read(&coming.config).map_err(|error| fail(error.to_string()))?.doors;
        let (captures, lost) = match coming.log {
            Some(log) => (vec![boxed(log_follower::open(log, coming.interfaces).map_err(fail)?)], Vec::new()),
            None => open_captures(&doors, &coming.interfaces),
        };
        if captures.is_empty() || !(some || lost.is_empty()) {
            return Err(fail(lost.join("\n")));
        }
        // From here on nothing needs root, and every byte that comes is a stranger's.
        let waited_for = captures.len().saturating_add(1);
        privileges::confine(coming.identity)
            .and_then(|()| sandbox::enter(&channel, waited_for))
            .map_err(|error| fail(format!("watcher: {error}")))?;
        let watch = Self {
            channel,
            captures,
            matcher: Matcher::new(doors),
            twins: Twins::default(),
            addresses: Vec::new(),
            only_v4,
            quiet: LogLimiter::default(),
            alive: clock::steady(),
        };
        watch.report(&FromLegacyWatcher::Watching)?;
        lost.into_iter().try_for_each(|reason| watch.report(&FromLegacyWatcher::Lost(reason)))?;
        Ok(watch)
    }

    fn run(&mut self) -> Result<(), LegacyShutdown> {
        loop {
            let mut fds: Vec<BorrowedFd<'_>> = vec![self.channel.as_fd()];
            fds.extend(self.captures.iter().map(AsFd::as_fd));
            let ready = poll::readable(&fds, self.time_to_deadline()).map_err(|_| LegacyShutdown)?;
            let mut ready = ready.into_iter();
            if ready.next() == Some(true) && !self.take_orders()? {
                return Ok(());
            }
            // From the last on: one that is lost is taken out of the list.
            let ready: Vec<bool> =
                ready.zip(&self.captures).map(|(ready, capture)| ready || capture.has_more()).collect();
            for (place, _) in ready.iter().enumerate().rev().filter(|(_, ready)| **ready) {
                self.take_packets(place)?;
            }
            let (now, mut told) = (clock::wall(), Vec::new());
            self.matcher.expire(now, &mut |event| told.push(event));
            self.report_events(&told, now)?;
            self.report_alive()?;
        }
    }

    /// Every now and then, as a watcher that says nothing is replaced. Not waited for: a full channel says as much.
    fn report_alive(&mut self) -> Result<(), LegacyShutdown> {
        let now = clock::steady();
        if now.saturating_sub(self.alive) < TICK {
            return Ok(());
        }
        self.alive = now;
        match self.channel.try_send(&FromLegacyWatcher::Alive.to_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(LegacyShutdown),
            _ => Ok(()),
        }
    }

    /// Until the next attempt is over.
    fn time_to_deadline(&self) -> Duration {
        if self.captures.iter().any(|capture| capture.has_more()) {
            return Duration::ZERO;
        }
        let now = clock::wall();
        let due = [self.matcher.next_due(), self.quiet.deadline()].into_iter().flatten().min();
        due.map_or(TICK, |due| if due > now { due.distance(now).min(TICK) } else { Duration::ZERO })
    }

    /// Whether the keeper is still there.
    fn take_orders(&mut self) -> Result<bool, LegacyShutdown> {
        let mut buffer = [0; MESSAGE];
        loop {
            match self.channel.try_recv(&mut buffer) {
                Ok(ReceiveResult::Message(length)) => {
                    self.handle_message(buffer.get(..length).unwrap_or_default())?
                }
                Ok(ReceiveResult::Nothing) => return Ok(true),
                Ok(ReceiveResult::Closed) => return Ok(false),
                Err(_) => return Err(LegacyShutdown),
            }
        }
    }

    fn handle_message(&mut self, message: &[u8]) -> Result<(), LegacyShutdown> {
        match ToLegacyWatcher::read(message).ok_or(LegacyShutdown)? {
            ToLegacyWatcher::Address(address) => self.addresses.push(address),
            ToLegacyWatcher::Addresses => self.matcher.set_addresses(std::mem::take(&mut self.addresses)),
            ToLegacyWatcher::Sequence(door, text) => {
                let sequence = if text.is_empty() { None } else { KnockSequence::read(text).ok() };
                self.matcher.renew(usize::try_from(door).map_err(|_| LegacyShutdown)?, sequence);
            }
            _ => return Err(LegacyShutdown),
        }
        Ok(())
    }

    fn take_packets(&mut self, place: usize) -> Result<(), LegacyShutdown> {
        for _ in 0..BATCH {
            let Some(capture) = self.captures.get_mut(place) else { return Ok(()) };
            let (packet, time) = match capture.take() {
                Ok(PacketEvent::Packet(packet, time)) => (packet, time),
                Ok(PacketEvent::Other) => continue,
                Ok(PacketEvent::Empty) => return Ok(()),
                Err(error) => return self.remove_capture(place, error.to_string()),
            };
            if self.twins.has_seen(&packet, place, time) {
                continue;
            }
            let packet = knocked(&packet, time);
            if self.only_v4 && packet.source.is_ipv6() {
                continue;
            }
            let mut told = Vec::new();
            self.matcher.take(&packet, &mut |event| told.push(event));
            self.report_events(&told, time)?;
        }
        Ok(())
    }

    /// What opens is always told, and waited for; the rest as far as there are not too many of it.
    fn report_events(&mut self, events: &[MatchEvent], now: Timestamp) -> Result<(), LegacyShutdown> {
        for event in events {
            let opens = event.step == MatchStage::Open;
            if !opens && !self.quiet.admits(now) {
                continue;
            }
            self.report(&FromLegacyWatcher::Event(*event))?;
        }
        match self.quiet.suppressed(now) {
            Some(number) => self.report(&FromLegacyWatcher::Untold(number)),
            None => Ok(()),
        }
    }

    /// One interface is gone; the others are still worth watching.
    fn remove_capture(&mut self, place: usize, reason: String) -> Result<(), LegacyShutdown> {
        // Closing it takes calls that are not allowed any more. It goes with the process, which is replaced soon.
        std::mem::forget(self.captures.remove(place));
        if self.captures.is_empty() {
            let _ = self.report(&FromLegacyWatcher::Failed(reason));
            return Err(LegacyShutdown);
        }
        self.report(&FromLegacyWatcher::Lost(reason))
    }

    fn report(&self, report: &FromLegacyWatcher) -> Result<(), LegacyShutdown> {
        self.channel.send(&report.to_bytes()).map_err(|_| LegacyShutdown)
    }
}

/// What sees the packets to these doors, on each interface or on every one if none is named; and why some do not.
fn open_captures(doors: &[Door], interfaces: &[String]) -> (Vec<Box<dyn PacketSource>>, Vec<String>) {
    let knocks = if doors.iter().any(|door| door.one_time.is_some()) {
        // The filter cannot be changed later, and the next sequence may have any ports.
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| (0..=u16::MAX).map(move |port| (protocol, port)))
            .collect()
    } else {
        let knocks = doors.iter().filter_map(|door| door.sequence.as_ref()).flat_map(KnockSequence::knocks);
        knocks.map(|knock| (knock.protocol, knock.port)).collect::<Vec<_>>()
    };
    let names: Vec<Option<&str>> = match interfaces {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let (mut captures, mut lost) = (Vec::new(), Vec::new());
    for name in names {
        match LegacyCapture::open(name, knocks.iter().copied()) {
            Ok(capture) => captures.push(boxed(capture)),
            Err(error) => lost.push(error.to_string()),
        }
    }
    (captures, lost)
}

fn boxed(packets: impl PacketSource + 'static) -> Box<dyn PacketSource> {
    Box::new(packets)
}

/// A packet as the matcher takes it.
fn knocked(packet: &packet::Packet<'_>, time: Timestamp) -> LegacyPacket {
    let (protocol, flags) = match packet.transport {
        Transport::Udp { .. } => (Protocol::Udp, TcpFlags::of(0)),
        Transport::Tcp { flags } => (Protocol::Tcp, flags),
    };
    LegacyPacket {
        time,
        source: packet.source.ip(),
        destination: packet.destination.ip(),
        knock: SequencePort { protocol, port: packet.destination.port() },
        flags,
    }
}
