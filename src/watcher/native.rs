//! The native watcher: reads datagrams and port hits, and passes on those that are authenticated by a client's key.

use std::hash::RandomState;
use std::process::ExitCode;
use std::time::Duration;

use log::Level;
use zeroize::Zeroizing;

use super::flood::FloodDetector;
use super::log_follower;
use super::shell::{
    self, BATCH, CaptureRequest, OpenResults, PacketReader, ReadError, Reports, SendResult, Shutdown, TICK,
};
use crate::capture::{Capture, CaptureEvent, CaptureStats, KnockRangeLog, PcapLive, Socket};
use crate::ipc::{CaptureSource, FromWatcher, ReceivedKnock, ToWatcher, WatcherStats};
use crate::os::clock;
use crate::os::net::udp::UdpPort;
use spa_knock_core::auth::{WatchedKey, Watcher};
use spa_knock_core::knock::{KnockRange, Now, Steady, canonical};

/// Port sequences passed on before datagrams are read again, and the time until the next ones if there were too many.
const SEQUENCES: usize = 16;
const SEQUENCES_REST: Duration = Duration::from_millis(10);
/// How long to wait during a flood before reading frames. A capture's ring still has room for 1.4 million frames per
/// second.
const REST: Duration = Duration::from_millis(2);

/// Runs until the keeper closes its end of the channel.
#[must_use]
pub(crate) fn main() -> ExitCode {
    shell::run("spa-knock-watcher", c"spa-knock-watch", Level::Info, NativeReader::new())
}

struct NativeReader {
    watcher: Watcher,
    /// A new configuration that is not complete yet.
    pending: PendingConfig,
    /// Whether the keeper waits for statistics.
    is_requested: bool,
    /// When the hints of the next minute were last calculated, and statistics were last reported on schedule.
    prepared: Steady,
    flood: FloodDetector,
    /// The message of a sequence for which there was no room. It must be kept: copies of its packets would not produce
    /// it again, only a hit on a new port does.
    held: Option<Zeroizing<Vec<u8>>>,
    /// Statistics of lost captures.
    lost: Option<CaptureStats>,
}

#[derive(Default)]
struct PendingConfig {
    params: Option<WatchParams>,
    clients: Vec<WatchedKey>,
}

#[derive(Clone, Copy)]
struct WatchParams {
    source: CaptureSource,
    port: u16,
    knock_range: Option<KnockRange>,
    window: Duration,
}

impl PacketReader for NativeReader {
    type Capture = Box<dyn Capture>;

    fn handle_message(&mut self, message: &[u8]) -> Result<(), Shutdown> {
        match ToWatcher::read(message).ok_or(Shutdown)? {
            ToWatcher::Watch { source, port, knock_range, window } => {
                let params = WatchParams { source, port, knock_range, window };
                self.pending = PendingConfig { params: Some(params), clients: Vec::new() };
            }
            ToWatcher::Key(key) => self.pending.clients.push(key),
            ToWatcher::UsualSource(key, source) => self.watcher.set_usual_source(key, source),
            // Handled in the current iteration of the loop, which reads the statistics of the captures.
            ToWatcher::Count => self.is_requested = true,
        }
        Ok(())
    }

    fn configure(&mut self, captures: Option<CaptureRequest>) -> Result<OpenResults<Self::Capture>, String> {
        let PendingConfig { params, clients } = std::mem::take(&mut self.pending);
        let params = params.ok_or("watcher: received keys without a configuration")?;
        let opened = captures.map(|request| open(params, request)).unwrap_or_default();
        if let (false, Some(knock_range)) = (opened.is_empty(), params.knock_range) {
            self.watcher.watch_range(knock_range, RandomState::new());
        }
        self.watcher.replace_clients(params.window, clients);
        self.watcher.prepare(clock::wall());
        Ok(opened)
    }

    fn read(&mut self, _: usize, capture: &mut Self::Capture, out: &Reports) -> Result<usize, ReadError> {
        // One time for the whole batch, which takes less than a millisecond.
        let now = clock::now();
        let watcher = &mut self.watcher;
        let mut keeper = Ok(SendResult::Sent);
        let taken = capture.read(BATCH, &mut |event| {
            let segment = match event {
                CaptureEvent::Datagram(segment) => segment,
                CaptureEvent::PortHit(hit) => {
                    return watcher.record_hit(hit.source, hit.to, hit.port, now.steady);
                }
                CaptureEvent::Other => return,
            };
            let source = canonical(segment.source.ip());
            let Ok(knock) = watcher.judge_from(segment.payload, Some(source), now) else { return };
            let received = ReceivedKnock {
                source: segment.source,
                destination: segment.destination.ip(),
                interface: segment.interface.unwrap_or(0),
                knock,
            };
            if keeper.is_ok() {
                // If the keeper is busy, the client's next copy will reach it.
                keeper = out.try_send(&FromWatcher::Knock(received).to_bytes());
            }
        });
        keeper.map_err(ReadError::Keeper)?;
        taken.map_err(|error| {
            self.lost = self.lost.into_iter().chain(capture.intake()).reduce(CaptureStats::plus);
            error.into()
        })
    }

    fn run_due(
        &mut self,
        captures: &mut [Self::Capture],
        taken: usize,
        now: Now,
        out: &Reports,
    ) -> Result<Duration, Shutdown> {
        self.pass_sequences(out)?;
        let is_due = now.steady.since(self.prepared) >= TICK;
        if is_due {
            self.watcher.prepare(now.wall);
            self.prepared = now.steady;
        }
        if is_due || captures.is_empty() || std::mem::take(&mut self.is_requested) {
            self.report_stats(captures, out)?;
        }
        let is_flood = self.flood.record(taken, now.steady);
        let batches = is_flood && taken < BATCH && captures.iter().all(|capture| capture.has_room());
        Ok(if batches { REST } else { Duration::ZERO })
    }

    fn time_to_deadline(&self) -> Duration {
        if self.held.is_some() || self.watcher.has_sequences() { SEQUENCES_REST } else { TICK }
    }

    fn log_end(&self) {
        log::info!(
            "exiting; datagrams with the length of a knock since the start: {}",
            self.watcher.counts()
        );
    }
}

impl NativeReader {
    fn new() -> Self {
        Self {
            watcher: Watcher::new(Duration::ZERO, []),
            pending: PendingConfig::default(),
            is_requested: false,
            prepared: clock::steady(),
            flood: FloodDetector::default(),
            held: None,
            lost: None,
        }
    }

    /// Passes on port sequences. Called after the datagrams, which take precedence for the room in the channel.
    fn pass_sequences(&mut self, out: &Reports) -> Result<(), Shutdown> {
        for _ in 0..SEQUENCES {
            let next = || {
                let sequence = self.watcher.next_sequence(clock::now())?;
                Some(FromWatcher::Sequence(sequence).to_bytes())
            };
            let Some(message) = self.held.take().or_else(next) else { break };
            if out.try_send(&message)? == SendResult::NoRoom {
                self.held = Some(message);
                break;
            }
        }
        Ok(())
    }

    /// Reports counters, without waiting: if the keeper is busy, the next report reaches it.
    fn report_stats(&mut self, captures: &mut [Box<dyn Capture>], out: &Reports) -> Result<(), Shutdown> {
        let captures = captures.iter_mut().filter_map(|capture| capture.intake());
        let intake = self.lost.into_iter().chain(captures).reduce(CaptureStats::plus);
        let stats = FromWatcher::Stats(WatcherStats { counts: self.watcher.counts(), intake });
        // Before the totals: when the totals arrive, the keeper has the complete statistics.
        let mut shutdown = None;
        self.watcher.report_throttled(|fingerprint, count| {
            let sent = out.try_send(&FromWatcher::Throttled(fingerprint, count).to_bytes());
            sent.map_err(|error| shutdown = Some(error)).is_ok_and(|sent| sent == SendResult::Sent)
        });
        shutdown.map_or(Ok(()), Err)?;
        out.try_send(&stats.to_bytes()).map(|_| ())
    }
}

/// Opens the captures; returns a result for each.
fn open(params: WatchParams, request: CaptureRequest) -> OpenResults<Box<dyn Capture>> {
    let WatchParams { source, port, knock_range, .. } = params;
    let CaptureRequest { interfaces, log } = request;
    let live = |name: Option<&str>| {
        PcapLive::open(name, port, knock_range).map(boxed).map_err(|error| error.to_string())
    };
    let mut results = match source {
        CaptureSource::Socket => {
            let socket = UdpPort::from_stdout().map(|socket| boxed(Socket::new(socket, port)));
            vec![socket.map_err(|error| error.to_string())]
        }
        CaptureSource::Capture if interfaces.is_empty() => vec![live(None)],
        CaptureSource::Capture => interfaces.iter().map(|name| live(Some(name))).collect(),
    };
    if let (Some(knock_range), Some(log)) = (knock_range, log) {
        results.push(log_follower::open(log, interfaces).map(|log| boxed(KnockRangeLog(log, knock_range))));
    }
    results
}

fn boxed(capture: impl Capture + 'static) -> Box<dyn Capture> {
    Box::new(capture)
}
