//! Measures the effect of a million accepted knocks: the size of the state, the time of a start, and the time of one
//! more knock compared with a second daemon that has judged only the knocks of the comparison. Real daemons, veth
//! pairs, nftables. Needs root.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark counts, reads the clock, and may fail loudly"
)]

#[path = "../tests/net/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the test network has more than this benchmark needs")]
mod net;
mod spread;

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use net::{CLIENT4, Daemon, KNOCK_PORT, Key, Lab, NO_LIMITS, SERVER4, Site, ask, knock, open_ssh};
use spread::Spread;

const KNOCKS: u32 = 1_000_000;
/// Enough clients that the 256 knocks in the replay memory of a key cover a minute, although the benchmark knocks
/// faster than real clients do.
const CLIENTS: usize = 64;
/// Maximum number of knocks without a reply so far.
const WINDOW: usize = 32;
/// Number of single knocks measured in each turn, and of turns. The two daemons take turns, because the speed of a
/// machine changes within minutes by more than what is measured.
const SINGLE: usize = 200;
const TURNS: usize = 20;
/// Number of starts in each measurement.
const STARTS: usize = 20;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let labs = Lab::new().zip(Lab::new());
    let Some([used, fresh]) = labs.map(|(one, other)| [one, other].map(Server::new)) else { return };

    starts(&used).print("start with an empty state (exec → ready)", None);
    let daemons = [&used, &fresh].map(|server| Daemon::start(&server.lab.server, &server.site));
    let start = Instant::now();
    let largest = many(&used);
    println!(
        "{KNOCKS} accepted knocks in {:.0} s; state at most {} KiB, now {} KiB",
        start.elapsed().as_secs_f64(),
        largest >> 10,
        state_size(&used.site) >> 10
    );

    // The first knocks after a start also warm caches, so the first turn is not counted.
    let turns: Vec<_> = (0..=TURNS).map(|_| [singles(&fresh), singles(&used)]).skip(1).collect();
    let [before, after] = [0, 1].map(|which| Spread::of(turns.iter().flat_map(|turn| turn[which].clone())));
    before.print("one knock with its reply, without them", None);
    after.print("one knock with its reply, after all of them", Some(1.1 * before.median()));
    println!("  that is {:+.1} %", 100.0 * (after.median() / before.median() - 1.0));
    let [used_daemon, fresh_daemon] = daemons.map(|daemon| resident(daemon.id().as_raw()));
    println!("keeper resident: {used_daemon}, without them {fresh_daemon}");
    starts(&used).print("start after all of them and kill -9 (exec → ready)", Some(100_000.0));
}

/// A network with a server and what a client of it needs.
struct Server {
    lab: Lab,
    site: Site,
    keys: Vec<Key>,
    socket: UdpSocket,
}

impl Server {
    fn new(lab: Lab) -> Self {
        let name = |n: usize| format!("client-{n}");
        let client = |n: usize| format!("[client.{0}]\nkey = \"{0}.key\"\nallow = [\"open-ssh\"]\n", name(n));
        let site = Site::new(NO_LIMITS, &(open_ssh(1) + &(0..CLIENTS).map(client).collect::<String>()));
        // Disables the audit log, because writing a million lines to it is not what is measured.
        let config = site.path("spa-knockd.toml");
        let is_audit = |line: &&str| !line.starts_with("audit");
        let lines: Vec<_> =
            fs::read_to_string(&config).unwrap().lines().filter(is_audit).map(str::to_owned).collect();
        fs::write(&config, lines.join("\n").replacen("[server]", "[server]\naudit = \"\"", 1)).unwrap();
        let keys = (0..CLIENTS).map(|n| site.add_key(&name(n))).collect();
        let socket = lab.client.udp(CLIENT4);
        Self { lab, site, keys, socket }
    }
}

/// The time until a daemon is ready. Each daemon is killed immediately.
fn starts(Server { lab, site, .. }: &Server) -> Spread {
    let journal = site.path("state/replay.journal");
    let lease = site.path("state/replay.lease");
    let kept = [&journal, &lease].map(|path| fs::read(path).ok());
    let start = |_| {
        // Each start rewrites the state, so it is restored before the next one.
        for (path, content) in [&journal, &lease].into_iter().zip(&kept) {
            if let Some(content) = content {
                fs::write(path, content).unwrap();
            }
        }
        let start = Instant::now();
        let mut daemon = Daemon::launch(&lab.server, Daemon::command(site));
        while !daemon.has_logged("ready") {
            assert!(!daemon.has_exited(), "{}", daemon.log());
            std::thread::sleep(Duration::from_micros(200));
        }
        let elapsed = start.elapsed();
        daemon.kill9();
        elapsed
    };
    Spread::of((0..STARTS).map(start))
}

fn singles(Server { socket, keys, .. }: &Server) -> Vec<Duration> {
    let single = |n: usize| {
        let datagram = keys[n % keys.len()].good();
        let start = Instant::now();
        assert!(ask(socket, SERVER4, &datagram).is_some(), "knock {n} gets a reply");
        start.elapsed()
    };
    (0..SINGLE).map(single).collect()
}

/// Knocks until [`KNOCKS`] replies have arrived. Returns the largest size of the state in bytes.
fn many(Server { socket, keys, site, .. }: &Server) -> u64 {
    let (mut sent, mut replied, mut largest) = (0_usize, 0_u32, 0);
    let mut pending = 0;
    while replied < KNOCKS {
        while pending < WINDOW {
            let datagram = keys[sent % keys.len()].seal(&knock("open-ssh"));
            socket.send_to(datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
            (sent, pending) = (sent + 1, pending + 1);
        }
        match socket.recv(&mut [0; 256]) {
            Ok(_) => (replied, pending) = (replied + 1, pending - 1),
            // Lost in a full queue: others are sent instead.
            Err(_) => pending = 0,
        }
        if replied.is_multiple_of(1_000) {
            largest = largest.max(state_size(site));
        }
    }
    // Discards late replies, which must not be taken for replies to later knocks.
    while socket.recv(&mut [0; 256]).is_ok() {}
    largest
}

fn state_size(site: &Site) -> u64 {
    let files = fs::read_dir(site.path("state")).unwrap().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

fn resident(process: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}
