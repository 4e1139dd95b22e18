//! One run: every point in turn. A measurement that fails is repeated once; if it fails again, the page lists it.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::floods::{self, Scope};
use crate::frames::{Dice, Packet};
use crate::lab::Lab;
use crate::peer::Peer;
use crate::replays::{self, Watch};
use crate::results::{self, Results};
use crate::{Request, machine, many_clients, memory, times};

/// How much is measured.
struct Sample {
    runs: usize,
    rates: &'static [u64],
    scope: Scope,
    forged: &'static [u64],
    /// More for this tool's own modes: it aims at no growth.
    forged_own: &'static [u64],
    clients: &'static [usize],
    client_runs: usize,
    bare: u64,
    replays: &'static [&'static str],
    kills: Watch,
    killed: &'static [&'static str],
}

const FULL: Sample = Sample {
    runs: 100,
    rates: &[1_000, 10_000, 100_000, 300_000, 500_000, 900_000, 1_000_000],
    scope: Scope { knocks: 10, cpu: Duration::from_millis(1_500) },
    forged: &[1_000_000, 10_000_000],
    forged_own: &[100_000_000],
    clients: &[1, 10, 100, 1_000],
    client_runs: 15,
    bare: 5_000_000,
    replays: &["right-away", "after-a-restart", "after-a-kill", "other-address", "delayed", "intercepted"],
    kills: Watch { granted: 3, watched: 10 },
    killed: &["daemons", "everything"],
};

const QUICK: Sample = Sample {
    runs: 4,
    rates: &[100_000],
    scope: Scope { knocks: 2, cpu: Duration::from_millis(300) },
    forged: &[100_000],
    forged_own: &[],
    clients: &[10],
    client_runs: 2,
    bare: 500_000,
    replays: &["intercepted"],
    kills: Watch { granted: 1, watched: 2 },
    killed: &["everything"],
};

/// What measures a point.
type Point = fn(&mut Run);

/// Measures what is asked for.
pub(crate) fn measure(request: &Request, mut peers: Vec<&'static dyn Peer>) -> Results {
    if let Some(tool) = &request.tool {
        peers.retain(|peer| peer.key().starts_with(tool.as_str()));
    }
    let mut run = Run {
        few: if request.tool.is_none() { few(&peers) } else { peers.clone() },
        peers,
        rate: request.rate,
        sample: if request.quick { QUICK } else { FULL },
        lab: Lab::new(),
        begin: Instant::now(),
        results: Results {
            sample: if request.quick { "quick" } else { "full" }.to_owned(),
            machine: machine::read(),
            ..Results::default()
        },
    };
    let points: [(&str, Point); 7] = [
        ("times", Run::times),
        ("bare", Run::bare),
        ("floods", Run::floods),
        ("memory", Run::memory),
        ("clients", Run::clients),
        ("replays", Run::replays),
        ("kills", Run::kills),
    ];
    for (name, point) in points {
        if request.only.as_ref().is_none_or(|only| only == name) {
            println!("{name} ({} s so far)", run.begin.elapsed().as_secs());
            point(&mut run);
        }
    }
    run.results.seconds = run.begin.elapsed().as_secs();
    println!("done in {} s", run.results.seconds);
    run.results
}

/// One mode of each tool: what a replay or a kill does is the same in all. Frames of TCP connections cannot be sent
/// again, so it is letmein's UDP.
fn few(peers: &[&'static dyn Peer]) -> Vec<&'static dyn Peer> {
    let others = ["spa-knock-any", "spa-knock-udp", "letmein-tcp"];
    peers.iter().copied().filter(|peer| !others.contains(&peer.key())).collect()
}

struct Run {
    sample: Sample,
    peers: Vec<&'static dyn Peer>,
    /// For points that are not measured in all modes.
    few: Vec<&'static dyn Peer>,
    rate: Option<u64>,
    lab: Lab,
    begin: Instant,
    results: Results,
}

impl Run {
    /// The result of `work`, which is repeated once if it panics.
    fn attempt<T>(&mut self, what: impl Debug, work: impl Fn(&Lab) -> T) -> Option<T> {
        for _ in 0..2 {
            if let Ok(result) = catch_unwind(AssertUnwindSafe(|| work(&self.lab))) {
                return Some(result);
            }
            println!("  failed: {what:?}");
        }
        self.results.failures.push(format!("{what:?}"));
        None
    }

    fn times(&mut self) {
        let (peers, runs) = (self.peers.clone(), self.sample.runs);
        let Some(times) = self.attempt("times", |lab| times::measure(lab, &peers, runs)) else { return };
        for times in &times {
            let [whole, wire] = [&times.whole, &times.wire].map(|times| results::spread(times));
            println!(
                "  {}: whole client {whole:.0?} µs, from the first frame {wire:.0?} µs, failed {}",
                times.title, times.failed
            );
        }
        self.results.times = times;
    }

    fn bare(&mut self) {
        let mut dice = Dice::new();
        let mut payload = vec![0; 228];
        dice.fill(&mut payload);
        let packet = Packet::Udp { from: dice.port(), to: 62_201, payload };
        let frames: Vec<_> = (0..64).map(|_| packet.frame(dice.address())).collect();
        let total = self.sample.bare;
        let Some(bare) = self.attempt("bare", |lab| floods::bare(lab, &frames, total)) else { return };
        println!(
            "  {} sent, {} dropped, {:.0} per second, {:.3} µs each",
            bare.sent,
            bare.dropped,
            bare.sent as f64 / bare.seconds,
            bare.sender_us
        );
        self.results.bare = Some(bare);
    }

    fn floods(&mut self) {
        let is_quick = self.sample.rates.len() == 1;
        let (scope, only) = (self.sample.scope, self.rate);
        for peer in if is_quick { self.few.clone() } else { self.peers.clone() } {
            let kinds = peer.forgeries();
            for kind in if is_quick { &kinds[kinds.len() - 1..] } else { kinds } {
                for rate in self.sample.rates.iter().filter(|rate| only.is_none_or(|only| only == **rate)) {
                    let measured = |lab: &Lab| floods::measure(lab, peer, *kind, *rate, scope);
                    let Some(result) = self.attempt(("flood", peer.key(), kind.0, rate), measured) else {
                        continue;
                    };
                    println!(
                        "  {} ({}) {rate}: sent {:.0}/s, {} of {} open, {:.3} µs each, {:.0} % of a core; sender {:.3} µs",
                        peer.title(),
                        kind.1,
                        result.rate,
                        result.opened,
                        result.knocks,
                        result.cpu_us,
                        result.cpu_share * 100.0,
                        result.sender_us
                    );
                    self.results.floods.push(result);
                }
            }
        }
    }

    fn memory(&mut self) {
        let (forged, forged_own) = (self.sample.forged, self.sample.forged_own);
        for peer in self.few.clone() {
            let own: &[u64] = if peer.key().starts_with("spa-knock") { forged_own } else { &[] };
            let totals = [forged, own].concat();
            let measured = |lab: &Lab| memory::measure(lab, peer, &totals);
            for row in self.attempt(("memory", peer.key()), measured).into_iter().flatten() {
                let processes: Vec<_> = row
                    .processes
                    .iter()
                    .map(|process| format!("{} {} KiB", process.name, process.pss_kib))
                    .collect();
                println!("  {} after {}: {}", row.title, row.forged, processes.join(", "));
                self.results.memory.push(row);
            }
        }
    }

    fn clients(&mut self) {
        let (runs, window) = (self.sample.client_runs, self.sample.scope.cpu);
        for peer in self.few.clone() {
            for clients in self.sample.clients {
                let measured = |lab: &Lab| many_clients::measure(lab, peer, *clients, runs, window);
                let Some(row) = self.attempt(("clients", peer.key(), clients), measured) else { continue };
                println!(
                    "  {} {clients}: start {:.0?} ms, {:.0?} µs, failed {}, {:.2} µs each, {:.0} % of a core",
                    row.title,
                    row.start_ms,
                    results::spread(&row.wire),
                    row.failed,
                    row.cpu_us,
                    row.cpu_share * 100.0
                );
                self.results.clients.push(row);
            }
        }
    }

    fn replays(&mut self) {
        for peer in self.few.clone() {
            for case in self.sample.replays {
                let measured = |lab: &Lab| replays::measure(lab, peer, case);
                let Some(row) = self.attempt(("replay", peer.key(), case), measured) else { continue };
                println!(
                    "  {} {case}: recorded {}, sender {}",
                    row.title, row.opens_recorded, row.opens_sender
                );
                self.results.replays.push(row);
            }
        }
    }

    fn kills(&mut self) {
        let watch = self.sample.kills;
        for peer in self.few.clone() {
            for killed in self.sample.killed {
                let measured = |lab: &Lab| replays::kill_daemons(lab, peer, watch, killed);
                let Some(row) = self.attempt(("kill", peer.key(), killed), measured) else { continue };
                println!(
                    "  {} {killed} killed: closed {:?} s, by a start {:?}",
                    row.title, row.closed_s, row.closed_by_start
                );
                self.results.kills.push(row);
            }
        }
    }
}
