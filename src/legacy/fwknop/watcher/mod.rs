//! The fwknop watcher: captures packets of fwknop's clients and passes on those that are authentic. Length and alphabet
//! are checked first, without any secret; then each stanza's HMAC costs one hash. Its priority is low, so that sealed
//! knocks go first.

mod known_packets;
mod priority;
mod quiet_sources;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use log::Level;

use super::allowance::Allowance;
use super::ipc::{ArrivedPacket, DropCounts, FromFwknopWatcher, PacketSources, ToFwknopWatcher};
use crate::capture::{Payload, PayloadCapture, PayloadEvent, PayloadSocket, PayloadSource};
use crate::os::clock;
use crate::os::net::udp::UdpPort;
use crate::watcher;
use crate::watcher::flood::FloodDetector;
use crate::watcher::shell::{
    self, BATCH, CaptureRequest, OpenResults, PacketReader, ReadError, Reports, Shutdown, TICK,
};
use known_packets::{KnownPackets, Novelty};
use quiet_sources::QuietSources;
use spa_knock_core::knock::{Now, Protocol, Steady};
use spa_knock_fwknop::{HmacKey, RequestPacket, WireText, packet_in_request};

/// Hashes per second, and in a burst: about a quarter of a processor.
const HASHES: u32 = 200_000;
const HASHES_BURST: u32 = 20_000;
/// Hashes per second, and in a burst, for packets from sources that send little, if the others have used up theirs.
const RESERVE: u32 = 50_000;
const RESERVE_BURST: u32 = 20_000;
/// Packets per second that each key may pass on, and in a burst: as for sealed knocks.
const PACKETS: u32 = 4;
const PACKETS_BURST: u32 = 128;
/// How long to wait during a flood before reading frames.
const REST: Duration = Duration::from_millis(1);

/// The program `spa-knock-fwknop-watcher`: runs until the keeper closes its end of the channel.
#[must_use]
pub fn main() -> ExitCode {
    const NAME: &str = "spa-knock-fwknop-watcher";
    watcher::start(NAME, || shell::run(NAME, c"spa-knock-fwkno", Level::Debug, FwknopReader::new()))
}

struct FwknopReader {
    /// A configuration that is not complete yet.
    pending: (Option<PacketSources>, Vec<WatchedHmacKey>),
    sources: Option<PacketSources>,
    keys: Vec<WatchedHmacKey>,
    hashes: Allowance,
    reserve: Allowance,
    quiet: QuietSources,
    known: KnownPackets,
    flood: FloodDetector,
    dropped: DropCounts,
    /// Time of the last report of [`DropCounts`].
    reported: Steady,
}

/// A key, and how many packets it may still pass on.
struct WatchedHmacKey {
    key: HmacKey,
    packets: Allowance,
}

impl PacketReader for FwknopReader {
    type Capture = Box<dyn PayloadSource>;

    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown> {
        match ToFwknopWatcher::read(message).ok_or(Shutdown)? {
            ToFwknopWatcher::Sources(sources) => self.pending = (Some(sources), Vec::new()),
            ToFwknopWatcher::Key(digest, key) => self.pending.1.push(WatchedHmacKey {
                key: HmacKey::new(digest, &key),
                packets: Allowance::new(PACKETS_BURST, PACKETS),
            }),
        }
        Ok(())
    }

    fn configure(&mut self, captures: Option<CaptureRequest>) -> Result<OpenResults<Self::Capture>, String> {
        let (sources, keys) = std::mem::take(&mut self.pending);
        let sources = sources.ok_or("watcher: received keys without a configuration")?;
        self.keys = keys;
        let opened = match captures {
            Some(request) => {
                priority::lower().map_err(|error| format!("watcher: priority: {error}"))?;
                open(&sources, &request.interfaces)
            }
            None => Vec::new(),
        };
        self.sources = Some(sources);
        Ok(opened)
    }

    fn read(&mut self, _: usize, capture: &mut Self::Capture, out: &Reports) -> Result<usize, ReadError> {
        let now = clock::steady();
        for taken in 0..BATCH {
            match capture.take()? {
                PayloadEvent::Payload(payload) => self.judge(&payload, now, out)?,
                PayloadEvent::Other => {}
                PayloadEvent::Empty => return Ok(taken),
            }
        }
        Ok(BATCH)
    }

    fn run_due(
        &mut self,
        _: &mut [Self::Capture],
        taken: usize,
        now: Now,
        out: &Reports,
    ) -> Result<Duration, Shutdown> {
        if now.steady.since(self.reported) >= TICK {
            self.reported = now.steady;
            let dropped = std::mem::take(&mut self.dropped);
            // Do not wait: if the channel is full, the keeper already has reports to read.
            out.try_send(&FromFwknopWatcher::Stats(dropped).to_bytes())?;
        }
        // A socket's buffer has room for few datagrams, so it is read as they arrive.
        let captures = self.sources.as_ref().is_some_and(|sources| !sources.socket);
        let is_flood = self.flood.record(taken, now.steady);
        Ok(if captures && is_flood && taken < BATCH { REST } else { Duration::ZERO })
    }

    fn time_to_deadline(&self) -> Duration {
        TICK
    }
}

impl FwknopReader {
    fn new() -> Self {
        Self {
            pending: (None, Vec::new()),
            sources: None,
            keys: Vec::new(),
            hashes: Allowance::new(HASHES_BURST, HASHES),
            reserve: Allowance::new(RESERVE_BURST, RESERVE),
            quiet: QuietSources::new(),
            known: KnownPackets::new(),
            flood: FloodDetector::default(),
            dropped: DropCounts::default(),
            reported: clock::steady(),
        }
    }

    /// Passes a packet on if it is authentic.
    fn judge(&mut self, payload: &Payload<'_>, now: Steady, out: &Reports) -> Result<(), Shutdown> {
        let Some((bytes, source)) = self.sources.as_ref().and_then(|sources| sources.text(payload)) else {
            return Ok(());
        };
        let Some(text) = WireText::parse(&bytes) else { return Ok(()) };
        // A text of a length that no digest allows costs no hash.
        let keys = self.keys.iter().filter(|watched| text.fits(watched.key.digest())).count();
        if keys == 0 {
            return Ok(());
        }
        let keys = u32::try_from(keys).unwrap_or(u32::MAX);
        let is_quiet = self.quiet.note(payload.source.ip(), now);
        let is_affordable = self.hashes.take(keys, now) || (is_quiet && self.reserve.take(keys, now));
        if !is_affordable {
            self.dropped.unverified = self.dropped.unverified.saturating_add(1);
            return Ok(());
        }
        let Some(key) = self.keys.iter_mut().find(|watched| watched.key.verify(text).is_some()) else {
            return Ok(());
        };
        let passes = match self.known.note(text.as_str(), now) {
            Novelty::New => key.packets.take(1, now),
            Novelty::Replay => true,
            Novelty::Copy => return Ok(()),
        };
        if !passes {
            self.dropped.throttled = self.dropped.throttled.saturating_add(1);
            return Ok(());
        }
        let destination = payload.destination.ip();
        let report = ArrivedPacket { source, destination, text: text.as_str().as_bytes() };
        out.send(&FromFwknopWatcher::Packet(report).to_bytes())
    }
}

impl PacketSources {
    /// The text that a payload can contain, and its source.
    fn text<'a>(&self, payload: &Payload<'a>) -> Option<(Cow<'a, [u8]>, SocketAddr)> {
        let Self { ports, segments, rules, .. } = self;
        let range = match payload.protocol {
            Protocol::Udp => &ports.udp,
            Protocol::Tcp => &ports.tcp,
        };
        if !range.as_ref()?.contains(&payload.destination.port()) {
            return None;
        }
        if payload.protocol == Protocol::Udp {
            return Some((Cow::Borrowed(payload.bytes), payload.source));
        }
        if ports.http
            && let Some(RequestPacket { text, source }) = packet_in_request(payload.bytes, *rules)
        {
            let address = source.unwrap_or_else(|| payload.source.ip());
            return Some((Cow::Owned(text), SocketAddr::new(address, payload.source.port())));
        }
        segments.then_some((Cow::Borrowed(payload.bytes), payload.source))
    }
}

/// Opens the captures; returns a result for each.
fn open(sources: &PacketSources, interfaces: &[String]) -> OpenResults<Box<dyn PayloadSource>> {
    if sources.socket {
        let number = sources.ports.udp.as_ref().map_or(0, |ports| *ports.start());
        let socket = UdpPort::from_stdout().map(|socket| boxed(PayloadSocket::new(socket, number)));
        return vec![socket.map_err(|error| error.to_string())];
    }
    let open = |name: Option<&str>| {
        PayloadCapture::open(name, &sources.ports).map(boxed).map_err(|error| error.to_string())
    };
    match interfaces {
        [] => vec![open(None)],
        names => names.iter().map(|name| open(Some(name))).collect(),
    }
}

fn boxed(source: impl PayloadSource + 'static) -> Box<dyn PayloadSource> {
    Box::new(source)
}
