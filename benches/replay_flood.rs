//! What a flood costs: one captured knock, 100,000 times a second, and ten million forged ones. CPU of the watcher for
//! each packet, what reaches the keeper, whom it keeps out, and how much memory both need. A real daemon, a veth pair,
//! nftables. Needs root.
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
#[allow(dead_code, unused_imports, reason = "the laboratory has more than this needs")]
mod net;

use std::net::UdpSocket;
use std::time::Duration;
use std::{fs, thread};

use net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Load, NEIGHBOUR4, NO_LIMITS, SERVER4, Site, ask, flood, forged,
    open_ssh, within,
};

/// Copies a second, and for how many seconds.
const RATE: usize = 100_000;
const SECONDS: usize = 30;
/// Knocks of others meanwhile.
const OTHERS: usize = 50;
/// Forged knocks, and how many a second.
const FORGED: usize = 10_000_000;
const FORGED_RATE: usize = 120_000;
/// Copies that pass.
const PASS: usize = 16;
/// Microseconds of the watcher's CPU for a copy.
const TARGET: f64 = 1.5;
/// KiB that a process may have resident.
const RESIDENT: u64 = 12 << 10;

fn main() {
    // `cargo test --benches` only asks whether this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(NO_LIMITS, &open_ssh(30));
    replays(&lab, &site);
    others(&lab, &site);
    forgeries(&lab, &site);
}

/// The keeper should do no more than in as long a rest.
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
    let (sent, seen) = (RATE * SECONDS, count(&daemon, "copies"));
    println!(
        "one captured knock, {:.0} times a second for {:.1} s",
        sent as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    println!("  {seen} of {sent} packets seen, {:.2} % dropped", 100.0 - 100.0 * seen as f64 / sent as f64);
    let each = watcher.cpu.as_secs_f64() * 1e6 / seen as f64;
    println!("  the watcher's CPU a packet: {each:.2} µs; target {TARGET} µs: {}", verdict(each <= TARGET));
    for (when, load) in [("meanwhile", &keeper), ("in as long a rest", &resting)] {
        let Load { switches, writes, disk, .. } = load;
        println!("  the keeper {when}: woken {switches} times, {writes} writes, {disk} bytes to the disk");
    }
    let granted = site.audit_of("granted").len();
    assert_eq!(granted, 2, "no copy acts");
}

/// Nobody is kept out.
fn others(lab: &Lab, site: &Site) {
    let _daemon = Daemon::start(&lab.server, site);
    let (socket, captured) = capture(lab, site);
    let before = site.audit_of("granted").len();
    let heard = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&socket, &captured, RATE, RATE * OTHERS / 5));
        let knock = |_: &usize| {
            thread::sleep(Duration::from_millis(100));
            ask(&lab.neighbour.udp(NEIGHBOUR4), SERVER4, &site.key("laptop").good()).is_some()
        };
        let heard = (0..OTHERS).filter(knock).count();
        assert!(!flooding.is_finished(), "all of it was in the flood");
        flooding.join().unwrap();
        heard
    });
    println!(
        "  others meanwhile: {heard} of {OTHERS} answered, each at its first datagram: {}",
        verdict(heard == OTHERS)
    );
    assert_eq!(site.audit_of("granted").len() - before, heard, "no copy acts");
}

/// A knock that has been taken, with as many copies of it as pass; whoever has it can send more.
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
        "  {seen} seen, the others too short or long for the kernel's filter; the watcher's CPU: {each:.2} µs each"
    );
}

/// What the watcher says at its end.
fn count(daemon: &Daemon, what: &str) -> usize {
    let said = "ended; datagrams";
    assert!(within(Duration::from_secs(2), || daemon.log().contains(said)), "{}", daemon.log());
    let log = daemon.log();
    let counts = log.lines().find(|line| line.contains(said)).unwrap();
    let part = counts.split([':', ',']).find(|part| part.trim_end().ends_with(what)).unwrap();
    part.split_whitespace().next().unwrap().parse().unwrap()
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}
