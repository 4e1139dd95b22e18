//! The legacy watcher: captures packets to the doors of a `knockd.conf` and reports the progress of knock sequences.

mod log_limiter;
mod recent_packets;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use log::Level;

use super::ipc::{FromLegacyWatcher, ToLegacyWatcher};
use super::knockd::{
    Config, Door, KnockSequence, LegacyPacket, MatchEvent, MatchStage, Matcher, SequencePort,
};
use crate::capture::{LegacyCapture, PacketEvent, PacketSource};
use crate::os::clock;
use crate::packet::{self, TcpFlags, Transport};
use crate::watcher::shell::{
    self, BATCH, CaptureRequest, OpenResults, PacketReader, ReadError, Reports, Shutdown, TICK,
};
use crate::watcher::{self, log_follower};
use log_limiter::LogLimiter;
use recent_packets::RecentPackets;
use spa_knock_core::knock::{Now, Protocol, Steady, Timestamp};

/// Maximum time to wait for the next one-time sequence, in all and without doing anything else.
const NEXT_SEQUENCE_MAX: Duration = TICK;
const NEXT_SEQUENCE_REST: Duration = Duration::from_millis(100);

/// The program `spa-knock-legacy-watcher`: runs until the keeper closes its end of the channel.
#[must_use]
pub fn main() -> ExitCode {
    const NAME: &str = "spa-knock-legacy-watcher";
    watcher::start(NAME, || shell::run(NAME, c"spa-knock-legac", Level::Debug, LegacyReader::new()))
}

struct LegacyReader {
    /// The text of the config received so far.
    config: Vec<u8>,
    matcher: Matcher,
    recent_packets: RecentPackets,
    /// The addresses of this host received so far.
    addresses: Vec<IpAddr>,
    only_v4: bool,
    limiter: LogLimiter,
    /// The doors that a one-time sequence has opened and whose next sequence is not known yet, and the time until which
    /// they are waited for.
    used_up: Vec<usize>,
    waits_until: Steady,
    /// Time of the last `Alive` report.
    alive: Steady,
}

impl PacketReader for LegacyReader {
    type Capture = Box<dyn PacketSource>;

    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown> {
        match ToLegacyWatcher::read(message).ok_or(Shutdown)? {
            ToLegacyWatcher::Config(text) => self.config.extend_from_slice(text),
            ToLegacyWatcher::OnlyV4 => self.only_v4 = true,
            ToLegacyWatcher::Address(address) => self.addresses.push(address),
            ToLegacyWatcher::Addresses => self.matcher.set_addresses(std::mem::take(&mut self.addresses)),
            ToLegacyWatcher::Sequence(door, text) => {
                let sequence = if text.is_empty() { None } else { KnockSequence::read(text).ok() };
                let door = usize::try_from(door).map_err(|_| Shutdown)?;
                self.matcher.set_sequence(door, sequence);
                self.used_up.retain(|waiting| *waiting != door);
            }
        }
        Ok(())
    }

    fn configure(&mut self, captures: Option<CaptureRequest>) -> Result<OpenResults<Self::Capture>, String> {
        let doors = Config::read(&std::mem::take(&mut self.config)).map_err(|error| error.to_string())?.doors;
        let opened = match captures {
            None => Vec::new(),
            Some(CaptureRequest { interfaces, log: Some(log) }) => {
                vec![log_follower::open(log, interfaces).map(boxed)]
            }
            Some(CaptureRequest { interfaces, log: None }) => open_captures(&doors, &interfaces),
        };
        self.matcher = Matcher::new(doors);
        Ok(opened)
    }

    fn read(&mut self, place: usize, capture: &mut Self::Capture, out: &Reports) -> Result<usize, ReadError> {
        for taken in 0..BATCH {
            if self.waits() {
                return Ok(taken);
            }
            let (packet, time) = match capture.take()? {
                PacketEvent::Packet(packet, time) => (packet, time),
                PacketEvent::Other => continue,
                PacketEvent::Empty => return Ok(taken),
            };
            if self.recent_packets.has_seen(&packet, place, time) {
                continue;
            }
            let packet = legacy_packet(&packet, time);
            if self.only_v4 && packet.source.is_ipv6() {
                continue;
            }
            let mut events = Vec::new();
            self.matcher.take(&packet, &mut |event| events.push(event));
            self.report(&events, time, out)?;
        }
        Ok(BATCH)
    }

    fn run_due(
        &mut self,
        _: &mut [Self::Capture],
        _: usize,
        now: Now,
        out: &Reports,
    ) -> Result<Duration, Shutdown> {
        if now.steady.since(self.alive) >= TICK {
            self.alive = now.steady;
            // Do not wait: if the channel is full, the keeper already has reports to read.
            out.try_send(&FromLegacyWatcher::Alive.to_bytes())?;
        }
        if self.waits() {
            return Ok(NEXT_SEQUENCE_REST);
        }
        let mut events = Vec::new();
        self.matcher.expire(now.wall, &mut |event| events.push(event));
        self.report(&events, now.wall, out)?;
        Ok(Duration::ZERO)
    }

    /// Time until the next attempt expires. Attempts expire at whole seconds of the wall clock, as in knockd.
    fn time_to_deadline(&self) -> Duration {
        let now = clock::wall();
        let due = [self.matcher.next_due(), self.limiter.deadline()].into_iter().flatten().min();
        due.map_or(TICK, |due| if due > now { due.distance(now).min(TICK) } else { Duration::ZERO })
    }
}

impl LegacyReader {
    fn new() -> Self {
        Self {
            config: Vec::new(),
            matcher: Matcher::new(Vec::new()),
            recent_packets: RecentPackets::default(),
            addresses: Vec::new(),
            only_v4: false,
            limiter: LogLimiter::default(),
            used_up: Vec::new(),
            waits_until: clock::steady(),
            alive: clock::steady(),
        }
    }

    /// Whether packets must wait for the next sequence of a door, to which they may belong. The keeper writes a file
    /// before it sends the sequence; if that takes too long, the other doors need not wait.
    fn waits(&self) -> bool {
        !self.used_up.is_empty() && clock::steady() < self.waits_until
    }

    /// Reports events. Openings are always reported; other events are limited.
    fn report(&mut self, events: &[MatchEvent], now: Timestamp, out: &Reports) -> Result<(), Shutdown> {
        for event in events {
            let opens = event.step == MatchStage::Open;
            if !opens && !self.limiter.admits(now) {
                continue;
            }
            out.send(&FromLegacyWatcher::Event(*event).to_bytes())?;
            let door = self.matcher.doors().get(event.door);
            if opens && door.is_some_and(|door| door.one_time.is_some()) {
                self.used_up.push(event.door);
                self.waits_until = clock::steady().plus(NEXT_SEQUENCE_MAX);
            }
        }
        match self.limiter.suppressed(now) {
            Some(number) => out.send(&FromLegacyWatcher::Suppressed(number).to_bytes()),
            None => Ok(()),
        }
    }
}

/// Opens a capture for packets to these doors on each of `interfaces`, or one on all interfaces if the list is empty.
fn open_captures(doors: &[Door], interfaces: &[String]) -> OpenResults<Box<dyn PacketSource>> {
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
    let open = |name| {
        LegacyCapture::open(name, knocks.iter().copied()).map(boxed).map_err(|error| error.to_string())
    };
    names.into_iter().map(open).collect()
}

fn boxed(packets: impl PacketSource + 'static) -> Box<dyn PacketSource> {
    Box::new(packets)
}

/// Converts a packet for the matcher.
fn legacy_packet(packet: &packet::Packet<'_>, time: Timestamp) -> LegacyPacket {
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
