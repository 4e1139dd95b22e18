//! The keeper's time: thousands of valid knocks a second of one client, of every kind, beside the knocks of another.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use spa_knock_core::knock::{AddressPolicy, Argument, Knock, Timestamp};

use crate::flood::Memory;
use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOUR4, SERVER4, Site, Wire, ask_patiently, await_step, flood,
    full, knock, step, within,
};

/// Knocks a second of the hostile client.
const RATE: usize = 10_000;
/// What the other client's answers may take, for 99 of 100.
const ANSWER: Duration = Duration::from_millis(50);
/// What a minute of the flood may add to the audit log and the state folder.
const DISK_A_MINUTE: u64 = 1 << 20;
/// KiB that a process may take more after the flood.
const GROWTH: u64 = 1_024;

const CONFIG: &str = r#"
[ports]

[firewall]
protect = ["tcp/22"]

[action.open-ssh]
open = ["tcp/22"]
for = "30s"
max = "10m"

[action.open-port]
open = "argument"
allow-ports = ["tcp/8000-8999"]
for = "30s"
max = "10m"

[client.laptop]
key = "laptop.key"
allow = ["open-ssh"]
# It knocks more often here than anyone does.
per-key-limit = { burst = 1000, rate = "100/s" }

[client.thief]
key = "thief.key"
allow = ["open-ssh", "open-port"]
source = ["exact", "observed", "listed"]

[client.slow]
key = "slow.key"
allow = ["open-ssh"]
rate = "1/m"

[client.former]
key = "former.key"
allow = ["open-ssh"]
expires = 2020-01-01
"#;

/// A knock of the hostile client; `n` makes it another one.
type Kind = (&'static str, &'static str, fn(usize) -> Knock);

const KINDS: [Kind; 7] = [
    ("granted to many addresses", "thief", |n| Knock {
        policy: AddressPolicy::Listed,
        ipv4: Some(Ipv4Addr::from(0x0B00_0000 + u32::try_from(n).unwrap())),
        ..knock("open-ssh")
    }),
    ("unknown action", "thief", |_| knock("no-such")),
    ("stale", "thief", |_| {
        let now = knock("open-ssh");
        Knock { timestamp: Timestamp::from_millis(now.timestamp.as_millis() - 31_000), ..now }
    }),
    ("over its rate", "slow", |_| knock("open-ssh")),
    ("expired", "former", |_| knock("open-ssh")),
    ("from another address", "thief", |_| Knock {
        policy: AddressPolicy::Exact,
        ipv4: Some([203, 0, 113, 9].into()),
        ..knock("open-ssh")
    }),
    ("overlapping ranges", "thief", |n| Knock {
        argument: format!("tcp/{}-{}", 8_000 + n % 400, 8_500 + n % 499).parse::<Argument>().unwrap(),
        ..knock("open-port")
    }),
];

#[test]
fn one_client_that_knocks_ten_thousand_times_a_second_keeps_no_other_out() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    for name in ["thief", "slow", "former"] {
        site.add_key(name);
    }
    let daemon = Daemon::start(&lab.server, &site);
    let processes = [("keeper", daemon.id()), ("watcher", daemon.watcher().unwrap())];
    let others = if full() { 50 } else { 4 };
    let mut first_round: Option<Vec<u64>> = None;
    let (mut seconds, disk) = (0.0, disk_of(&site));
    // Twice: what is used for the first time takes memory that is there from then on.
    for (at, (what, client, make)) in KINDS.into_iter().cycle().take(2 * KINDS.len()).enumerate() {
        let key = site.key(client);
        let attacker = lab.client.udp(CLIENT4);
        attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
        let span = Duration::from_millis(u64::try_from(others).unwrap() * 60 + 400);
        let total = RATE * usize::try_from(span.as_millis()).unwrap() / 1_000;
        let knocks: Vec<Vec<u8>> = (0..total).map(|n| key.seal(&make(n)).as_bytes().to_vec()).collect();
        let (taken, times) = thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&attacker, &knocks, RATE, total));
            let times = knock_beside(&lab.neighbour.udp(NEIGHBOUR4), &site.key("laptop"), others);
            (flood.join().unwrap(), times)
        });
        report(what, total, taken, &times);
        assert_answered(what, &times, others);
        seconds += taken.as_secs_f64();
        if at + 1 >= KINDS.len() {
            let now: Vec<u64> = processes.iter().map(|(_, process)| Memory::of(*process).now).collect();
            let before = first_round.get_or_insert_with(|| now.clone());
            for ((name, _), (before, now)) in processes.iter().zip(before.iter().zip(&now)) {
                assert!(*now <= before + GROWTH, "{what}: {name}: {before} KiB, then {now} KiB");
            }
        }
    }
    let grown = disk_of(&site).saturating_sub(disk);
    println!("disk: {grown} bytes in {seconds:.1} s of floods");
    // A bucket that is full at the start holds as much as half a minute earns.
    let allowed = DISK_A_MINUTE * 3;
    assert!(grown <= allowed, "{grown} bytes");
    let throttled = |client: &str| {
        let output = lab.server.output(&mut site.admin(&["status", "--json"]));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = status["throttled"].as_array().unwrap().iter();
        all.filter(|entry| entry["client"] == client)
            .map(|entry| entry["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(within(Duration::from_secs(15), || throttled("thief") > 1_000), "it is counted by client");
    assert_eq!(throttled("laptop"), 0);
}

#[test]
fn one_client_whose_port_sequences_come_from_everywhere_keeps_no_other_out() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    for name in ["thief", "slow", "former"] {
        site.add_key(name);
    }
    let _daemon = Daemon::start(&lab.server, &site);
    let others = if full() { 50 } else { 8 };
    await_step(20);
    let ports = site.key("thief").ports(step().after(), None);
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let IpAddr::V4(server) = SERVER4 else { unreachable!("it is IPv4") };
    let frames: Vec<Vec<u8>> = (0..40_000_usize).map(|n| syn(&wire, n / 8, server, ports[n % 8])).collect();
    let times = thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            for (n, frame) in frames.iter().enumerate() {
                wire.send(frame);
                // 10,000 packets a second.
                while begun.elapsed() < Duration::from_micros(u64::try_from(n).unwrap() * 100) {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        knock_beside(&lab.neighbour.udp(NEIGHBOUR4), &site.key("laptop"), others)
    });
    report("port sequences", frames.len(), Duration::ZERO, &times);
    assert_answered("port sequences", &times, others);
}

/// How long each answer to so many knocks of a client took; those that got one.
fn knock_beside(socket: &UdpSocket, key: &Key, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        thread::sleep(Duration::from_millis(60));
        let knock = key.good();
        let begun = Instant::now();
        times.extend(ask_patiently(socket, SERVER4, &knock).map(|_| begun.elapsed()));
    }
    times.sort();
    times
}

fn assert_answered(what: &str, times: &[Duration], others: usize) {
    assert_eq!(times.len(), others, "{what}: all are answered");
    // How fast is a figure; a machine that does other things too only shows that they come.
    let late = times.iter().filter(|time| **time > ANSWER).count();
    assert!(!full() || late * 100 <= others, "{what}: {times:?}");
}

fn report(what: &str, total: usize, taken: Duration, times: &[Duration]) {
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    println!(
        "{what}: {total} in {taken:?}; the other client: {} answered, median {:?}, p99 {:?}",
        times.len(),
        at(50).unwrap(),
        at(99).unwrap()
    );
}

/// Bytes of the audit log and of the state folder.
fn disk_of(site: &Site) -> u64 {
    let state = std::fs::read_dir(site.path("state")).unwrap();
    let files = state.map(|entry| entry.unwrap().path()).chain([site.path("audit.jsonl")]);
    files.filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum()
}

fn syn(wire: &Wire, n: usize, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let from = Ipv4Addr::from(0x0B00_0000 + u32::try_from(n).unwrap());
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(wire.mac, wire.peer).ipv4(from.octets(), to.octets(), 64);
    packet.tcp(40_000, port, 7, 1_024).syn().write(&mut frame, &[]).unwrap();
    frame
}
