//! Floods of one captured knock and of forged knocks: they use a little of the watcher's time and do not affect others.

use std::time::Duration;
use std::{fs, thread};

use nix::unistd::Pid;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Load, NEIGHBOR4, SERVER4, Site, ask, flood, forged, full, open_ssh,
    within,
};

/// Number of duplicates of one datagram that the watcher passes on.
const PASS: usize = 16;
/// Maximum resident memory of each process in a release build, in KiB, including the capture ring; and the part of it
/// that is for code.
const RESIDENT: u64 = 12 << 10;
pub(crate) const CODE: u64 = 3 << 10;
/// Maximum growth during a flood in KiB: pages of libraries and of the ring that had not been used before.
const GROWTH: u64 = 256;

#[test]
fn a_flood_of_one_captured_knock_does_not_reach_the_keeper_and_does_not_lock_out_others() {
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
    // The keeper wakes for its own timer and for the watcher's reports of its counters.
    assert!(keeper.switches <= 4, "woken {} times", keeper.switches);
    assert_eq!((keeper.writes, keeper.disk), (0, 0));

    let others = if full() { 50 } else { 10 };
    let replies = thread::scope(|scope| {
        scope.spawn(|| flood(&attacker, &captured, rate, rate * (others + 10) / 20));
        let knock = |_: &usize| {
            thread::sleep(Duration::from_millis(50));
            ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &site.key("laptop").good()).is_some()
        };
        (0..others).filter(knock).count()
    });
    assert_eq!(replies, others);
    assert_eq!(site.audit_of("granted").len(), 1 + others, "no duplicate acts");
    assert!(daemon.terminate().success());
    let passed = format!("start: {} passed on", PASS + others);
    assert!(within(Duration::from_secs(1), || daemon.log().contains(&passed)), "{}", daemon.log());
}

#[test]
fn forged_knocks_cause_no_lasting_memory_use() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let attacker = lab.client.udp(CLIENT4);
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    let (rate, total) = if full() { (100_000, 10_000_000) } else { (60_000, 200_000) };
    let forged = forged(&site.key("laptop"), 10_000);
    let processes = [("keeper", daemon.id()), ("watcher", daemon.watcher().unwrap())];
    // The first frames use each place of the ring for the first time.
    flood(&attacker, &forged, rate, 10_000);
    let before = processes.map(|(_, process)| Memory::of(process));
    flood(&attacker, &forged, rate, total);
    for ((name, process), before) in processes.into_iter().zip(before) {
        let Memory { now, peak, code } = Memory::of(process);
        println!(
            "{name} after {total} forged knocks: {now} KiB resident (code: {code} KiB), peak {peak} KiB"
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

/// Resident memory of a process in KiB.
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) peak: u64,
    /// The program's own code; a test build has three times as much as a release build.
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
            // The first line of a mapping begins with an address and ends with its file. The others begin with a name
            // and a colon.
            match line.split_whitespace().next() {
                Some("Rss:") if is_code => code += number(line),
                Some(name) if name.ends_with(':') => {}
                _ => is_code = line.ends_with(program.to_str().unwrap()),
            }
        }
        Self { now: field("VmRSS:"), peak: field("VmHWM:"), code }
    }
}
