//! Measures floods: one captured knock 100,000 times a second, and ten million forged knocks. Reports the watcher's CPU
//! time for each packet, the load of the keeper, the effect on other clients, and the memory of both processes. A real
//! daemon, a veth pair, nftables. Needs root.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
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

use std::net::UdpSocket;
use std::time::Duration;
use std::{fs, thread};

use net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Load, NEIGHBOR4, NO_LIMITS, SERVER4, Site, ask, flood, forged,
    open_ssh, within,
};

/// Rate of the replayed datagram per second, and the duration of the flood in seconds.
const RATE: usize = 100_000;
const SECONDS: usize = 30;
/// Number of knocks of another client during the flood.
const OTHERS: usize = 50;
/// Number of forged knocks, and their rate per second.
const FORGED: usize = 10_000_000;
const FORGED_RATE: usize = 120_000;
/// How often one datagram is passed to the keeper.
const PASS: usize = 16;
/// Target for the watcher's CPU time for each packet, in microseconds.
const TARGET: f64 = 1.5;
/// Target for the resident memory of a process, in KiB.
const RESIDENT: u64 = 12 << 10;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(NO_LIMITS, &open_ssh(30));
    replays(&lab, &site);
    others(&lab, &site);
    forgeries(&lab, &site);
}

/// During the flood, the keeper should do no more than in the same time at rest.
fn replays(lab: &Lab, site: &Site) {
    let mut daemon = Daemon::start(&lab.server, site);
    capture(lab, site);
    let keeper = Load::of(daemon.id());
    thread::sleep(Duration::from_secs(SECONDS.try_into().unwrap()));
    let resting = keeper.since();
    assert!(daemon.terminate().success());

    let mut daemon = Daemon::start(&lab.server, site);
    let (socket, captured) = capture(lab, site);
    let keeper = Load::of(daemon.id());
    let watcher = Load::of(daemon.watcher().unwrap());
    let took = flood(&socket, &captured, RATE, RATE * SECONDS);
    let (keeper, watcher) = (keeper.since(), watcher.since());
    assert!(daemon.terminate().success());
    let (sent, seen) = (RATE * SECONDS, count(&daemon, "duplicates"));
    println!(
        "one captured knock, {:.0} times a second for {:.1} s",
        sent as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    println!("  {seen} of {sent} packets seen, {:.2} % dropped", 100.0 - 100.0 * seen as f64 / sent as f64);
    let each = watcher.cpu.as_secs_f64() * 1e6 / seen as f64;
    println!(
        "  the watcher's CPU time for each packet: {each:.2} µs; target {TARGET} µs: {}",
        verdict(each <= TARGET)
    );
    for (when, load) in [("during the flood", &keeper), ("in the same time at rest", &resting)] {
        let Load { switches, writes, disk, .. } = load;
        println!("  the keeper {when}: woken {switches} times, {writes} writes, {disk} bytes to the disk");
    }
    let granted = site.audit_of("granted").len();
    assert_eq!(granted, 2, "no replay acts");
}

/// Other clients can still knock during the flood.
fn others(lab: &Lab, site: &Site) {
    let _daemon = Daemon::start(&lab.server, site);
    let (socket, captured) = capture(lab, site);
    let before = site.audit_of("granted").len();
    let replied = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&socket, &captured, RATE, RATE * OTHERS / 5));
        let knock = |_: &usize| {
            thread::sleep(Duration::from_millis(100));
            ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &site.key("laptop").good()).is_some()
        };
        let replied = (0..OTHERS).filter(knock).count();
        assert!(!flooding.is_finished(), "all knocks were sent during the flood");
        flooding.join().unwrap();
        replied
    });
    println!(
        "  others during the flood: {replied} of {OTHERS} got a reply to their first datagram: {}",
        verdict(replied == OTHERS)
    );
    assert_eq!(site.audit_of("granted").len() - before, replied, "no replay acts");
}

/// An accepted knock that has been passed to the keeper the maximum number of times; an attacker who has captured it
/// can send more.
fn capture(lab: &Lab, site: &Site) -> (UdpSocket, Vec<Vec<u8>>) {
    let captured = vec![site.key("laptop").good()];
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &captured[0]).is_some());
    socket.connect((SERVER4, KNOCK_PORT)).unwrap();
    flood(&socket, &captured, 1_000, PASS - 1);
    thread::sleep(Duration::from_millis(500));
    (socket, captured)
}

fn forgeries(lab: &Lab, site: &Site) {
    let mut daemon = Daemon::start(&lab.server, site);
    let socket = lab.client.udp(CLIENT4);
    socket.connect((SERVER4, KNOCK_PORT)).unwrap();
    let forged = forged(&site.key("laptop"), 20_000);
    let watcher = Load::of(daemon.watcher().unwrap());
    let took = flood(&socket, &forged, FORGED_RATE, FORGED);
    let watcher = watcher.since();
    println!("forged: {FORGED} packets, {:.0} a second", FORGED as f64 / took.as_secs_f64());
    let resident =
        [("keeper", daemon.id()), ("watcher", daemon.watcher().unwrap())].map(|(name, process)| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            let field = |name: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().parse().unwrap()
            };
            (name, field("VmRSS"), field("VmHWM"))
        });
    for (name, now, most) in resident {
        println!(
            "  {name}: {now} KiB resident, {most} KiB at most; target {RESIDENT} KiB: {}",
            verdict(now <= RESIDENT)
        );
    }
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(daemon.terminate().success());
    let seen = count(&daemon, "unknown hint") + count(&daemon, "forged");
    let each = watcher.cpu.as_secs_f64() * 1e6 / seen as f64;
    println!(
        "  {seen} seen, the others dropped by the kernel's filter for their length; the watcher's CPU time: {each:.2} µs each"
    );
}

/// The number before `what` in the counts that the watcher logs when it ends.
fn count(daemon: &Daemon, what: &str) -> usize {
    let message = "exiting; datagrams";
    assert!(within(Duration::from_secs(2), || daemon.log().contains(message)), "{}", daemon.log());
    let log = daemon.log();
    let counts = log.lines().find(|line| line.contains(message)).unwrap();
    let part = counts.split([':', ',']).find(|part| part.trim_end().ends_with(what)).unwrap();
    part.split_whitespace().next().unwrap().parse().unwrap()
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}
