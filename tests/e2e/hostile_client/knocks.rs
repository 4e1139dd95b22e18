//! The keeper's time: one client sends thousands of valid knocks per second, of every kind; another client still
//! knocks.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use spa_knock_core::knock::{AddressPolicy, Argument, Knock, Timestamp};

use crate::flood::Memory;
use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOR4, SERVER4, Site, Wire, ask_patiently, await_time_step,
    flood, full, knock, step, within,
};

/// Knocks per second of the hostile client.
const RATE: usize = 10_000;
/// Time limit for replies to the other client, for 99 of 100.
const REPLY: Duration = Duration::from_millis(50);
/// Maximum number of bytes that one minute of the flood adds to the audit log and the state folder.
const DISK_A_MINUTE: u64 = 1 << 20;
/// Maximum growth of a process during the flood, in KiB.
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
# It knocks more often in this test than any real client.
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

/// A kind of knock: its description, the client, and a function that makes a different knock for each number.
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
fn one_client_that_knocks_ten_thousand_times_a_second_does_not_lock_out_another() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    for name in ["thief", "slow", "former"] {
        site.add_key(name);
    }
    let daemon = Daemon::start(&lab.server, &site);
    let processes = [("keeper", daemon.id()), ("watcher", daemon.watcher().unwrap())];
    let others = if full() { 50 } else { 4 };
    let mut first_round: Option<Vec<u64>> = None;
    let (mut seconds, disk) = (0.0, disk_usage(&site));
    // Two rounds, because code and tables that are used for the first time take memory that is not released.
    for (at, (what, client, make)) in KINDS.into_iter().cycle().take(2 * KINDS.len()).enumerate() {
        let key = site.key(client);
        let attacker = lab.client.udp(CLIENT4);
        attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
        let span = Duration::from_millis(u64::try_from(others).unwrap() * 60 + 400);
        let total = RATE * usize::try_from(span.as_millis()).unwrap() / 1_000;
        let knocks: Vec<Vec<u8>> = (0..total).map(|n| key.seal(&make(n)).as_bytes().to_vec()).collect();
        let (took, times) = thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&attacker, &knocks, RATE, total));
            let times = times_of_knocks(&lab.neighbor.udp(NEIGHBOR4), &site.key("laptop"), others);
            (flood.join().unwrap(), times)
        });
        report(what, total, took, &times);
        assert_replies(what, &times, others);
        seconds += took.as_secs_f64();
        if at + 1 >= KINDS.len() {
            let now: Vec<u64> = processes.iter().map(|(_, process)| Memory::of(*process).now).collect();
            let before = first_round.get_or_insert_with(|| now.clone());
            for ((name, _), (before, now)) in processes.iter().zip(before.iter().zip(&now)) {
                assert!(*now <= before + GROWTH, "{what}: {name}: {before} KiB, then {now} KiB");
            }
        }
    }
    let grown = disk_usage(&site).saturating_sub(disk);
    println!("disk: {grown} bytes in {seconds:.1} s of floods");
    // A token bucket that is full at the start holds as many tokens as it gains in half a minute.
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
    assert!(
        within(Duration::from_secs(15), || throttled("thief") > 1_000),
        "dropped knocks are counted by client"
    );
    assert_eq!(throttled("laptop"), 0);
}

#[test]
fn one_client_whose_port_sequences_come_from_everywhere_does_not_lock_out_another() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    for name in ["thief", "slow", "former"] {
        site.add_key(name);
    }
    let _daemon = Daemon::start(&lab.server, &site);
    let others = if full() { 50 } else { 8 };
    await_time_step(20);
    let ports = site.key("thief").ports(step().after(), None);
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let IpAddr::V4(server) = SERVER4 else { unreachable!("it is IPv4") };
    let frames: Vec<Vec<u8>> = (0..40_000_usize).map(|n| syn(&wire, n / 8, server, ports[n % 8])).collect();
    let times = thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            for (n, frame) in frames.iter().enumerate() {
                wire.send(frame);
                // 10,000 packets per second.
                while start.elapsed() < Duration::from_micros(u64::try_from(n).unwrap() * 100) {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        times_of_knocks(&lab.neighbor.udp(NEIGHBOR4), &site.key("laptop"), others)
    });
    report("port sequences", frames.len(), Duration::ZERO, &times);
    assert_replies("port sequences", &times, others);
}

/// The times until the replies to `count` knocks of a client; knocks without a reply are left out.
fn times_of_knocks(socket: &UdpSocket, key: &Key, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        thread::sleep(Duration::from_millis(60));
        let knock = key.good();
        let start = Instant::now();
        times.extend(ask_patiently(socket, SERVER4, &knock).map(|_| start.elapsed()));
    }
    times.sort();
    times
}

fn assert_replies(what: &str, times: &[Duration], others: usize) {
    assert_eq!(times.len(), others, "{what}: all get a reply");
    // The times are checked only in a full run. On a busy machine, it is enough that replies arrive.
    let late = times.iter().filter(|time| **time > REPLY).count();
    assert!(!full() || late * 100 <= others, "{what}: {times:?}");
}

fn report(what: &str, total: usize, took: Duration, times: &[Duration]) {
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    println!(
        "{what}: {total} in {took:?}; the other client: {} replies, median {:?}, p99 {:?}",
        times.len(),
        at(50).unwrap(),
        at(99).unwrap()
    );
}

/// Size in bytes of the audit log and the state folder.
fn disk_usage(site: &Site) -> u64 {
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
