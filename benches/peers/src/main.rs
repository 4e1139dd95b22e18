//! Compares spa-knock with fwknop, knockd and letmein: in the same two network namespaces, one after the other, in one
//! run. `scripts/compare` builds and installs everything and starts this. Needs root.

#[path = "../../../tests/net/namespace.rs"]
#[allow(dead_code, reason = "the tests need more of a namespace")]
mod namespace;

mod floods;
mod frames;
mod fwknop;
mod knockd;
mod lab;
mod letmein;
mod machine;
mod many_clients;
mod memory;
mod page;
mod peer;
mod plots;
mod programs;
mod record;
mod replays;
mod results;
mod sender;
mod server;
mod spa_knock;
mod targets;
mod times;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use floods::Scope;
use frames::{Dice, Packet};
use lab::{Lab, SERVER};
use peer::Peer;
use replays::Watch;
use results::Results;

const USAGE: &str = "usage: peers measure DIRECTORY [--quick] [--only POINT] [--tool NAME] [--rate N]\n       peers page DIRECTORY";
const POINTS: [&str; 7] = ["times", "bare", "floods", "memory", "clients", "replays", "kills"];

/// How much is measured.
struct Sample {
    runs: usize,
    rates: &'static [u64],
    scope: Scope,
    forged: &'static [u64],
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
    clients: &[1, 10, 100, 1_000],
    client_runs: 15,
    bare: 5_000_000,
    replays: &["right-away", "after-a-restart", "after-a-kill", "other-address", "intercepted"],
    kills: Watch { granted: 3, watched: 10 },
    killed: &["daemons", "everything"],
};

const QUICK: Sample = Sample {
    runs: 4,
    rates: &[100_000],
    scope: Scope { knocks: 2, cpu: Duration::from_millis(300) },
    forged: &[100_000],
    clients: &[10],
    client_runs: 2,
    bare: 500_000,
    replays: &["right-away"],
    kills: Watch { granted: 1, watched: 2 },
    killed: &["everything"],
};

/// What the command line asks for.
#[derive(Default)]
struct Request {
    quick: bool,
    only: Option<String>,
    tool: Option<String>,
    rate: Option<u64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(command), Some(folder)) = (args.first(), args.get(1)) else { return usage() };
    let folder = Path::new(folder);
    let Some(request) = Request::read(&args[2..]) else { return usage() };
    match command.as_str() {
        "measure" => {
            if !namespace_is_possible() {
                eprintln!("peers: needs root");
                return ExitCode::FAILURE;
            }
            let results = measure(&request);
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("results.json"), serde_json::to_string_pretty(&results).unwrap() + "\n")
                .unwrap();
            write_page(folder);
            ExitCode::SUCCESS
        }
        "page" => {
            write_page(folder);
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}\nPOINT: {}", POINTS.join(", "));
    ExitCode::from(2)
}

fn namespace_is_possible() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes the page and its pictures from the numbers.
fn write_page(folder: &Path) {
    let text = fs::read_to_string(folder.join("results.json")).unwrap();
    let results: Results = serde_json::from_str(&text).unwrap();
    plots::draw(folder, &results);
    fs::write(folder.join("how-it-compares.md"), page::text(&results, &peers())).unwrap();
}

/// Every tool in every mode, in the order of the page.
fn peers() -> Vec<&'static dyn Peer> {
    let mut peers: Vec<&'static dyn Peer> = Vec::new();
    peers.extend(spa_knock::MODES.iter().map(|mode| mode as &dyn Peer));
    peers.extend(letmein::TRANSPORTS.iter().map(|transport| transport as &dyn Peer));
    peers.push(&fwknop::Fwknop);
    peers.push(&knockd::Knockd);
    peers
}

impl Request {
    fn read(args: &[String]) -> Option<Self> {
        let mut request = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => request.quick = true,
                "--only" => {
                    request.only = Some(args.next().filter(|point| POINTS.contains(&point.as_str()))?.clone())
                }
                "--tool" => request.tool = Some(args.next()?.clone()),
                "--rate" => request.rate = Some(args.next()?.parse().ok()?),
                _ => return None,
            }
        }
        Some(request)
    }
}

fn measure(request: &Request) -> Results {
    let sample = if request.quick { QUICK } else { FULL };
    let mut peers = peers();
    if let Some(tool) = &request.tool {
        peers.retain(|peer| peer.key().starts_with(tool.as_str()));
    }
    // The small sample has one mode of each tool, except for the times.
    let few: Vec<_> =
        if request.quick && request.tool.is_none() { replayed(&peers).collect() } else { peers.clone() };
    let begin = Instant::now();
    let mut results = Results {
        sample: if request.quick { "quick" } else { "full" }.to_owned(),
        machine: machine::read(),
        ..Results::default()
    };
    let lab = Lab::new();
    let is_wanted = |point: &str| {
        let wanted = request.only.as_ref().is_none_or(|only| only == point);
        if wanted {
            println!("{point} ({} s so far)", begin.elapsed().as_secs());
        }
        wanted
    };
    if is_wanted("times") {
        results.times = times::measure(&lab, &peers, sample.runs);
        for times in &results.times {
            let [whole, wire] = [&times.whole, &times.wire].map(|times| results::spread(times));
            println!(
                "  {}: whole client {whole:.0?} µs, from the first frame {wire:.0?} µs, failed {}",
                times.title, times.failed
            );
        }
    }
    if is_wanted("bare") {
        let mut dice = Dice::new();
        let mut payload = vec![0; 228];
        dice.fill(&mut payload);
        let packet = Packet::Udp { from: dice.port(), to: 62_201, payload };
        let frames: Vec<_> = (0..64).map(|_| packet.frame(dice.address())).collect();
        let bare = floods::bare(&lab, &frames, sample.bare);
        println!(
            "  {} sent, {} dropped, {:.0} per second, {:.3} µs each",
            bare.sent,
            bare.dropped,
            bare.sent as f64 / bare.seconds,
            bare.sender_us
        );
        results.bare = Some(bare);
    }
    if is_wanted("floods") {
        for peer in &few {
            let kinds = peer.forgeries();
            for kind in if request.quick { &kinds[kinds.len() - 1..] } else { kinds } {
                for rate in sample.rates {
                    if request.rate.is_some_and(|only| only != *rate) {
                        continue;
                    }
                    let result = floods::measure(&lab, *peer, *kind, *rate, sample.scope);
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
                    results.floods.push(result);
                }
            }
        }
    }
    if is_wanted("memory") {
        for peer in &few {
            for row in memory::measure(&lab, *peer, sample.forged) {
                let processes: Vec<_> = row
                    .processes
                    .iter()
                    .map(|process| format!("{} {} KiB", process.name, process.pss_kib))
                    .collect();
                println!("  {} after {}: {}", row.title, row.forged, processes.join(", "));
                results.memory.push(row);
            }
        }
    }
    if is_wanted("clients") {
        for peer in &few {
            for clients in sample.clients {
                let row = many_clients::measure(&lab, *peer, *clients, sample.client_runs, sample.scope.cpu);
                println!(
                    "  {} {clients}: start {:.0?} ms, {:.0?} µs, failed {}, {:.2} µs each, {:.0} % of a core",
                    row.title,
                    row.start_ms,
                    results::spread(&row.wire),
                    row.failed,
                    row.cpu_us,
                    row.cpu_share * 100.0
                );
                results.clients.push(row);
            }
        }
    }
    if is_wanted("replays") {
        for peer in replayed(&peers) {
            for row in replays::measure(&lab, peer, sample.replays) {
                println!(
                    "  {} {}: recorded {}, sender {}",
                    row.title, row.case, row.opens_recorded, row.opens_sender
                );
                results.replays.push(row);
            }
        }
    }
    if is_wanted("kills") {
        for peer in replayed(&peers) {
            for row in replays::kills(&lab, peer, sample.kills, sample.killed) {
                println!(
                    "  {} {} killed: closed {:?} s, by a start {:?}",
                    row.title, row.killed, row.closed_s, row.closed_by_start
                );
                results.kills.push(row);
            }
        }
    }
    results.seconds = begin.elapsed().as_secs();
    println!("done in {} s; server {SERVER}", results.seconds);
    results
}

/// One mode of each tool: what a replay or a kill does is the same in all. Frames of TCP connections cannot be sent
/// again, so it is letmein's UDP.
fn replayed<'a>(peers: &'a [&'static dyn Peer]) -> impl Iterator<Item = &'static dyn Peer> + 'a {
    peers.iter().copied().filter(|peer| !matches!(peer.key(), "spa-knock-udp" | "letmein-tcp"))
}
