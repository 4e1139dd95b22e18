//! Defects of knockd that are fixed here, apart from those in matching: each test case runs against Debian's knockd,
//! too.

use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};

use crate::net::{
    CLIENT4, HitKind, Knockd, Lab, Namespace, SERVER4, SOON, children_of, full, hit_ports, within,
};

const A: &str = "[a]\nsequence = 7000,8000\ntcpflags = syn\n";

/// Knocks with knockd's own client, and waits until a door has opened, or is not going to.
fn knock(lab: &Lab, knockd: &Knockd, args: &str) {
    let before = knockd.count("OPEN SESAME");
    lab.client.run(&format!("knock {args}"));
    within(Duration::from_secs(2), || knockd.count("OPEN SESAME") > before);
}

/// Knocks once a second until a door opens: a busy machine needs longer before one can.
fn knock_until_open(lab: &Lab, knockd: &Knockd, args: &str) {
    for _ in 0..5 {
        thread::sleep(Duration::from_secs(1));
        knock(lab, knockd, args);
        if knockd.count("OPEN SESAME") > 0 {
            return;
        }
    }
}

/// A sequence of events in a lab with one daemon.
type Scenario = fn(&Lab, &Knockd);

fn uses_up_the_last_one_time_sequence(lab: &Lab, knockd: &Knockd) {
    knock(lab, knockd, "10.77.0.1 5000 6000");
    knock(lab, knockd, "10.77.0.1 5001 6001");
    knock(lab, knockd, "10.77.0.1 7000 8000");
}

fn uses_one_time_sequences_over_ipv6(lab: &Lab, knockd: &Knockd) {
    knock(lab, knockd, "fd77::1 5000 6000");
    knock(lab, knockd, "fd77::1 5001 6001");
}

fn reloads_a_bad_config(lab: &Lab, knockd: &Knockd) {
    fs::write(knockd.path("knockd.conf"), "[a]\ninvalid\n").unwrap();
    kill(knockd.id(), Signal::SIGHUP).unwrap();
    thread::sleep(Duration::from_millis(500));
    knock(lab, knockd, "10.77.0.1 7000 8000");
}

fn loses_its_interface(lab: &Lab, knockd: &Knockd) {
    lab.server.ip("link del lan0");
    thread::sleep(Duration::from_millis(300));
    let client = &lab.client;
    lab.server.cable(("lan0", &["10.77.0.1/24"]), client, ("eth0", &["10.77.0.2/24"]));
    // The daemon needs another watcher.
    knock_until_open(lab, knockd, "10.77.0.1 7000 8000");
}

fn gets_an_address(lab: &Lab, knockd: &Knockd) {
    lab.server.ip("addr add 10.77.0.101/24 dev lan0");
    // The daemon reads the addresses every 10 s.
    thread::sleep(Duration::from_secs(10));
    knock_until_open(lab, knockd, "10.77.0.101 7000 8000");
}

#[test]
fn the_daemon_survives_events_that_stop_debians_knockd_or_its_doors() {
    let once = format!("[once]\none_time_sequences = LIST\n{A}");
    // How many doors open with our daemon, and with Debian's knockd.
    let rows: [(&str, &str, Scenario, usize, usize); 5] = [
        ("the last one-time sequence", &once, uses_up_the_last_one_time_sequence, 3, 2),
        ("one-time sequences over IPv6", &once, uses_one_time_sequences_over_ipv6, 2, 1),
        ("a bad config at a reload", A, reloads_a_bad_config, 1, 0),
        ("an interface that is removed and added again", A, loses_its_interface, 1, 0),
        ("an address added later", A, gets_an_address, 1, 0),
    ];
    let quick = if full() { rows.len() } else { rows.len() - 1 };
    let run = |doors: &str, scenario: Scenario, expected, start: fn(&Namespace, &str, &str) -> Knockd| {
        let lab = Lab::new()?;
        let scratch = tempfile::tempdir().unwrap();
        let list = scratch.path().join("list");
        fs::write(&list, " 5000,6000\n 5001,6001\n").unwrap();
        let knockd = start(&lab.server, &doors.replace("LIST", list.to_str().unwrap()), "");
        scenario(&lab, &knockd);
        within(SOON, || knockd.count("OPEN SESAME") >= expected);
        // No other door opens, either.
        thread::sleep(Duration::from_millis(300));
        Some(knockd.count("OPEN SESAME"))
    };
    thread::scope(|scope| {
        for (name, doors, scenario, with_ours, with_theirs) in rows.into_iter().take(quick) {
            scope.spawn(move || {
                let Some(ours) = run(doors, scenario, with_ours, Knockd::ours) else { return };
                let Some(theirs) = run(doors, scenario, with_theirs, Knockd::theirs) else { return };
                assert_eq!((ours, theirs), (with_ours, with_theirs), "{name}");
            });
        }
    });
}

/// knockd loses packets that arrive before its filter has the ports of the next sequence.
#[test]
fn packets_wait_until_the_next_one_time_sequence_is_in_force() {
    let Some(lab) = Lab::new() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let list = scratch.path().join("list");
    let sequences = (0..20).map(|n| format!(" {},{}\n", 5_000 + n, 6_000 + n));
    fs::write(&list, sequences.collect::<String>()).unwrap();
    let once = format!("[once]\none_time_sequences = {}\ntcpflags = syn\n", list.display());
    let knockd = Knockd::ours(&lab.server, &(once + A), "");
    let ports: Vec<u16> = (0..10).flat_map(|n| [5_000 + n, 6_000 + n]).chain([7_000, 8_000]).collect();
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Syn, &ports);
    let opened = || ["once: OPEN SESAME", "a: OPEN SESAME"].map(|line| knockd.count(line));
    assert!(within(SOON, || opened() == [10, 1]), "{:?}\n{}", opened(), knockd.log());
    let list = fs::read_to_string(&list).unwrap();
    assert_eq!(list.lines().filter(|line| line.starts_with('#')).count(), 10, "{list}");
}

#[test]
fn an_interface_that_returns_without_its_address_is_watched_soon_after_it_has_one() {
    let Some(lab) = Lab::new() else { return };
    let knockd = Knockd::ours(&lab.server, A, "");
    let watcher = || children_of(knockd.id()).first().copied();
    let before = watcher();
    lab.server.ip("link set lan0 down");
    thread::sleep(Duration::from_millis(300));
    lab.server.ip("link del lan0");
    lab.server.cable(("lan0", &[]), &lab.client, ("eth0", &["10.77.0.2/24"]));
    assert!(within(Duration::from_secs(20), || watcher().is_some_and(|pid| Some(pid) != before)));
    thread::sleep(Duration::from_millis(700));
    lab.server.ip("addr add 10.77.0.1/24 dev lan0");
    let opens = || {
        knock(&lab, &knockd, "10.77.0.1 7000 8000");
        knockd.count("OPEN SESAME") > 0
    };
    assert!(within(Duration::from_secs(3), opens), "{}", knockd.log());
}
