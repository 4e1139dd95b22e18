//! Runs the cases of `tests/knockd/cases.txt` against this daemon and Debian's knockd. Both receive the same packets,
//! and the log lines and commands of each are compared with the case. Intended differences are listed in the case.

#[path = "../knockd/cases.rs"]
mod cases;

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cases::{Case, Peer, Sent, Step, outcome_event};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, PacketBuilderStep, TcpHeader, VlanId,
};

use crate::net::{Knockd, Lab, Wire, full, limited, within};

/// How long the last line may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(4);
/// Time between packets.
const GAP: Duration = Duration::from_millis(3);
/// Time to wait for unexpected lines after the last expected one. knockd can take 50 ms.
const REST: Duration = Duration::from_millis(250);
/// Number of labs that run in parallel.
const LABS: usize = 4;

/// The events in a daemon's log, in the notation of outcomes.
fn logged(daemon: &Knockd, case: &Case) -> Vec<String> {
    let (log, doors) = (daemon.log(), case.config.matches('[').count());
    let lines = log.lines().filter_map(|line| line.split_once("] "));
    lines.filter_map(|(_, line)| logged_event(line, doors)).collect()
}

/// `door source` of the commands that were logged, and of those that ran. Both are sorted, because commands run in
/// parallel.
fn ran(daemon: &Knockd) -> [Vec<String>; 2] {
    let (log, mut ran) = (daemon.log(), daemon.ran());
    let running = log.lines().filter_map(|line| line.split_once(": running command: echo "));
    let mut logged: Vec<String> =
        running.filter_map(|(_, command)| Some(command.split_once(" >>")?.0.to_owned())).collect();
    logged.sort();
    ran.sort();
    [logged, ran]
}

/// The event of a log line without its time.
fn logged_event(line: &str, doors: usize) -> Option<String> {
    let mut parts = line.split(": ");
    let (source, door, text) = (parts.next()?, parts.next()?, parts.next()?);
    source.parse::<IpAddr>().ok()?;
    let event = if let Some(stage) = text.strip_prefix("Stage ") {
        format!("S{stage}")
    } else if let Some(stage) = text.strip_prefix("sequence timeout (stage ") {
        format!("timeout{}", stage.strip_suffix(')')?)
    } else if text == "OPEN SESAME" {
        "OPEN".to_owned()
    } else {
        return Some(line.to_owned());
    };
    Some(outcome_event(source, (doors > 1).then_some(door), &event))
}

/// The commands that must run with this outcome, sorted, unless the case lists them.
fn commands(case: &Case, outcome: &str) -> Vec<String> {
    let source = if outcome.contains("203.0.113.77") {
        "203.0.113.77"
    } else if case.steps.iter().any(|step| matches!(step, Step::Packet(sent) if sent.source.is_ipv6())) {
        "fd77::2"
    } else {
        "10.77.0.2"
    };
    let opens = outcome.split(' ').filter_map(|event| event.strip_suffix("OPEN"));
    let mut commands: Vec<String> = opens
        .map(|before| {
            let mut parts: Vec<&str> = before.split(':').filter(|part| !part.is_empty()).collect();
            let door = parts.pop_if(|part| matches!(*part, "a" | "b")).unwrap_or("a");
            match parts.first() {
                Some(host) if host.starts_with('.') => format!("{door} 10.77.0{host}"),
                _ => format!("{door} {source}"),
            }
        })
        .collect();
    commands.sort();
    case.runs.clone().unwrap_or(commands)
}

/// Waits until the millisecond of a second at which the case starts.
fn await_start(case: &Case) {
    let Some(start) = case.start else { return };
    let now = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_millis());
    thread::sleep(Duration::from_millis((start + 1_000 - now) % 1_000));
}

/// A daemon, its expected outcome, and the number of events at each `?` of the case.
struct Side<'a> {
    name: &'static str,
    daemon: Knockd,
    outcome: &'a str,
    looks: Vec<usize>,
}

impl Side<'_> {
    fn events(&self, case: &Case) -> String {
        let mut events = logged(&self.daemon, case);
        for look in self.looks.iter().rev() {
            events.insert(*look, "|".to_owned());
        }
        events.join(" ")
    }

    fn is_done(&self, case: &Case) -> bool {
        let runs = commands(case, self.outcome);
        self.events(case) == self.outcome && ran(&self.daemon).iter().all(|ran| *ran == runs)
    }

    fn failure(&self, case: &Case) -> String {
        let (events, outcome) = (self.events(case), self.outcome);
        let (ran, runs) = (ran(&self.daemon), commands(case, outcome));
        let details = format!("logged {events:?}, expected {outcome:?}\n  ran {ran:?}, expected {runs:?}");
        format!("{}, {}:\n  {details}", case.title, self.name)
    }
}

/// Runs a case in a lab. Returns the differences from the expected outcomes.
fn run(lab: &Lab, wire: &mut Wire, case: &Case) -> Vec<String> {
    let ours = Knockd::ours(&lab.server, &case.config, &case.options);
    let mut sides =
        vec![Side { name: "spa-knockd", daemon: ours, outcome: &case.outcome, looks: Vec::new() }];
    let theirs = match &case.knockd {
        Peer::Same => Some(case.outcome.as_str()),
        Peer::Other(outcome) => Some(outcome.as_str()),
        Peer::Cannot => None,
    };
    sides.extend(theirs.map(|outcome| {
        let daemon = Knockd::theirs(&lab.server, &case.config, &case.options);
        Side { name: "knockd", daemon, outcome, looks: Vec::new() }
    }));
    // Both set their filters before they log that they listen. Our watcher receives the addresses slightly later.
    thread::sleep(Duration::from_millis(20));
    await_start(case);
    play(wire, case, &mut sides);
    within(PATIENCE, || sides.iter().all(|side| side.is_done(case)));
    thread::sleep(REST);
    sides.iter().filter(|side| !side.is_done(case)).map(|side| side.failure(case)).collect()
}

fn play(wire: &mut Wire, case: &Case, sides: &mut [Side<'_>]) {
    let mut gap = Duration::ZERO;
    for step in &case.steps {
        match step {
            Step::Pause(pause) => {
                thread::sleep(*pause);
                gap = Duration::ZERO;
            }
            Step::Look => {
                for side in sides.iter_mut() {
                    side.looks.push(logged(&side.daemon, case).len());
                }
            }
            Step::Packet(sent) => {
                thread::sleep(std::mem::replace(&mut gap, GAP));
                wire.send(&frame(wire, sent));
            }
        }
    }
}

#[test]
fn the_daemon_logs_and_runs_the_same_as_debians_knockd_except_for_its_defects() {
    if Lab::new().is_none() {
        return;
    }
    assert!(limited("knockd").arg("-V").output().unwrap().status.success(), "Debian's knockd is missing");
    let every = cases::cases();
    // Of the cases with the same outcome, run only some by default.
    let sampled = |at: usize, case: &Case| full() || case.knockd != Peer::Same || at.is_multiple_of(5);
    let cases: Vec<&Case> =
        every.iter().enumerate().filter(|(at, case)| sampled(*at, case)).map(|(_, case)| case).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..LABS {
            scope.spawn(|| {
                let lab = Lab::new().unwrap();
                lab.server.ip("addr add 10.77.0.100/24 dev lan0");
                let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let found = run(&lab, &mut wire, case);
                    failures.lock().unwrap().extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    let defects = cases.iter().filter(|case| matches!(case.knockd, Peer::Other(_))).count();
    println!("{} cases; in {defects} of them knockd has a defect that is fixed here", cases.len());
}

/// The frame of a packet.
fn frame(wire: &Wire, sent: &Sent) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload: &[u8] = if sent.form == "payload" { b"hello" } else { &[] };
    let from = if sent.form == "payload" { 40_000 + sent.port } else { 40_000 };
    let builder = ip(wire, sent);
    if sent.udp {
        builder.udp(from, sent.port).write(&mut frame, payload).unwrap();
    } else {
        let mut header = TcpHeader::new(from, sent.port, 1, 1_024);
        header.fin = sent.flags & 0x01 != 0;
        header.syn = sent.flags & 0x02 != 0;
        header.rst = sent.flags & 0x04 != 0;
        header.ack = sent.flags & 0x10 != 0;
        builder.tcp_header(header).write(&mut frame, payload).unwrap();
    }
    if sent.form == "broken" {
        // The TCP checksum, after Ethernet and an IPv4 header without options.
        frame[14 + 20 + 16] ^= 0xFF;
    }
    frame
}

fn ip(wire: &Wire, sent: &Sent) -> PacketBuilderStep<IpHeaders> {
    let protocol = if sent.udp { IpNumber::UDP } else { IpNumber::TCP };
    let headers = match (sent.source, sent.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ttl = if sent.form == "broken" { 1 } else { 64 };
            let mut header = Ipv4Header::new(0, ttl, protocol, from.octets(), to.octets()).unwrap();
            match sent.form.as_str() {
                // Router alert (RFC 2113).
                "options" => header.options = [0x94, 4, 0, 0].into(),
                "first" => header.more_fragments = true,
                "later" => header.fragment_offset = IpFragOffset::try_new(64).unwrap(),
                _ => {}
            }
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (source, destination) = (from.octets(), to.octets());
            let header = Ipv6Header { hop_limit: 64, source, destination, ..Ipv6Header::default() };
            let mut extensions = Ipv6Extensions::default();
            if sent.form == "extension" {
                // PadN over the six bytes after the fixed part (RFC 8200, section 4.2).
                let padding = Ipv6RawExtHeader::new_raw(protocol, &[1, 4, 0, 0, 0, 0]).unwrap();
                extensions.destination_options = Some(padding);
            }
            IpHeaders::Ipv6(header, extensions)
        }
        _ => panic!("{sent:?}"),
    };
    let ethernet = PacketBuilder::ethernet2(wire.mac, wire.peer);
    if sent.form == "vlan" {
        ethernet.single_vlan(VlanId::try_new(5).unwrap()).ip(headers)
    } else {
        ethernet.ip(headers)
    }
}
