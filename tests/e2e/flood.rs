//! Floods: of one captured knock, and of forged ones. Who floods costs the watcher a little and nobody else anything.

use std::time::Duration;
use std::{fs, thread};

use nix::unistd::Pid;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Load, NEIGHBOUR4, SERVER4, Site, ask, flood, forged, full, open_ssh,
    within,
};

/// Copies of one datagram that the watcher passes on.
const PASS: usize = 16;
/// KiB that each process of a release may have resident, capture ring and all; and what its code takes of that.
const RESIDENT: u64 = 12 << 10;
pub(crate) const CODE: u64 = 3 << 10;
/// KiB that it may need more after a flood: pages of libraries and ring that were not touched before.
const GROWTH: u64 = 256;

#[test]
fn a_flood_of_one_captured_knock_is_not_heard_by_the_keeper_and_keeps_nobody_out() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let mut daemon = Daemon::start(&lab.server, &site);
    let captured = vec![site.key("laptop").good()];
    let attacker = lab.client.udp(CLIENT4);
    assert!(ask(&attacker, SERVER4, &captured[0]).is_some());
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    flood(&attacker, &captured, 1_000, PASS - 1);
    thread::sleep(Duration::from_millis(300));

    let rate = if full() { 50_000 } else { 5_000 };
    let keeper = Load::of(daemon.id());
    flood(&attacker, &captured, rate, 2 * rate);
    let keeper = keeper.since();
    // Its own tick, and the watcher's report of what it has seen.
    assert!(keeper.switches <= 4, "woken {} times", keeper.switches);
    assert_eq!((keeper.writes, keeper.disk), (0, 0));

    let others = if full() { 50 } else { 10 };
    let heard = thread::scope(|scope| {
        scope.spawn(|| flood(&attacker, &captured, rate, rate * (others + 10) / 20));
        let knock = |_: &usize| {
            thread::sleep(Duration::from_millis(50));
            ask(&lab.neighbour.udp(NEIGHBOUR4), SERVER4, &site.key("laptop").good()).is_some()
        };
        (0..others).filter(knock).count()
    });
    assert_eq!(heard, others);
    assert_eq!(site.audit_of("granted").len(), 1 + others, "no copy acts");
    assert!(daemon.terminate().success());
    let passed = format!("start: {} passed on", PASS + others);
    assert!(within(Duration::from_secs(1), || daemon.log().contains(&passed)), "{}", daemon.log());
}

#[test]
fn forged_knocks_leave_no_memory_taken() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let attacker = lab.client.udp(CLIENT4);
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    let (rate, total) = if full() { (100_000, 10_000_000) } else { (60_000, 200_000) };
    let forged = forged(&site.key("laptop"), 10_000);
    let processes = [("keeper", daemon.id()), ("watcher", daemon.watcher().unwrap())];
    let before = processes.map(|(_, process)| Memory::of(process));
    flood(&attacker, &forged, rate, total);
    for ((name, process), before) in processes.into_iter().zip(before) {
        let Memory { now, most, code } = Memory::of(process);
        println!(
            "{name} after {total} forged knocks: {now} KiB resident ({code} of it are its code), {most} at most"
        );
        assert!(now - code <= RESIDENT - CODE, "{name}: {now} KiB");
        assert!(
            now - code <= before.now - before.code + GROWTH,
            "{name}: {} KiB, then {now} KiB",
            before.now
        );
    }
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

/// KiB that a process has resident.
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) most: u64,
    /// The program's own code, of which a build for tests has three times as much.
    pub(crate) code: u64,
}

impl Memory {
    pub(crate) fn of(process: Pid) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
        let number = |line: &str| -> u64 { line.split_whitespace().nth(1).unwrap().parse().unwrap() };
        let (status, smaps) = (read("status"), read("smaps"));
        let field = |name: &str| number(status.lines().find(|line| line.starts_with(name)).unwrap());
        let program = fs::read_link(format!("/proc/{process}/exe")).unwrap();
        let mut is_code = false;
        let mut code = 0;
        for line in smaps.lines() {
            // The line that begins a mapping has an address and ends with its file; others begin with a name and a colon.
            match line.split_whitespace().next() {
                Some("Rss:") if is_code => code += number(line),
                Some(name) if name.ends_with(':') => {}
                _ => is_code = line.ends_with(program.to_str().unwrap()),
            }
        }
        Self { now: field("VmRSS:"), most: field("VmHWM:"), code }
    }
}
