//! Figures for knock sequences, compared with Debian's knockd on the same machine: time from three packets to the
//! command, time to start with many doors of knockd, the cost of a packet, and knocks during a flood. Uses two network
//! namespaces with a veth pair. Needs root and knockd.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark counts, reads the clock, and may fail loudly"
)]

#[path = "../tests/net/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the lab has more than this benchmark needs")]
mod net;
mod spread;

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::Read;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use net::{CLIENT4, HitKind, Knockd, Lab, Namespace, SERVER4, Wire, hit_ports, knock_in_a_flood};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use spa_knock::legacy::knockd::{Config, LegacyPacket, Matcher, SequencePort};
use spa_knock::packet::TcpFlags;
use spa_knock_core::knock::{Protocol, Timestamp};
use spread::Spread;

const DOOR: &str = "[a]\nsequence = 7000,8000,9000\ntcpflags = syn\nseq_timeout = 5\n";
const PORTS: [u16; 3] = [7000, 8000, 9000];
const MANY: u16 = 800;
/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(20);
/// First knocks per second, each from another address.
const FLOOD: u64 = 20_000;

fn main() {
    // `cargo test --benches` only checks that this program starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    cost_of_a_packet();
    let Some(lab) = Lab::new() else { return };
    let to_command = |name: &str, start: fn(&Namespace, &str, &str) -> Knockd, target| {
        let spread = Spread::of(knocks_to_command(&lab, start, 200));
        spread.print(&format!("{name}: three packets (first SYN sent → command started)"), target);
    };
    to_command("spa-knockd", Knockd::ours, Some(5_000.0));
    to_command("knockd", Knockd::theirs, None);
    start_with_many_doors(&lab);
    flood(&lab);
}

/// Times from the first of three packets until the command has started. The command opens a pipe immediately.
fn knocks_to_command(lab: &Lab, start: fn(&Namespace, &str, &str) -> Knockd, times: u32) -> Vec<Duration> {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    // Open it for writing, too, so that opening does not block.
    let mut started: File = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let knockd = start(&lab.server, &format!("{DOOR}command = echo >{}\n", pipe.display()), "");
    let mut knock = |n: u32| {
        // Vary the interval, to avoid synchronizing with periodic tasks.
        thread::sleep(Duration::from_millis(60 + u64::from(n * 7 % 50)));
        let begin = Instant::now();
        hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Syn, &PORTS);
        started.read_exact(&mut [0]).unwrap();
        begin.elapsed()
    };
    // The first knock resolves the link-layer addresses.
    knock(0);
    let times = (0..times).map(knock).collect();
    drop(knockd);
    times
}

/// A `knockd.conf` with doors that have no port in common.
fn doors(count: u16) -> String {
    let door = |n: u16| {
        let port = 10_000 + n * 3;
        format!("[d{n}]\nsequence = {port},{},{}\ntcpflags = syn\n", port + 1, port + 2)
    };
    (0..count).map(door).collect()
}

/// Complete sequences from new sources, spread evenly over all doors of knockd; alternates between one door and many.
fn cost_of_a_packet() {
    const BATCH: u32 = 3_000;
    let mut matchers = [1, MANY].map(|count| {
        let mut matcher = Matcher::new(Config::read(doors(count).as_bytes()).unwrap().doors);
        matcher.set_addresses([SERVER4]);
        matcher
    });
    let mut times = [Vec::new(), Vec::new()];
    for batch in 0..400_u32 {
        for ((matcher, times), doors) in matchers.iter_mut().zip(&mut times).zip([1, MANY]) {
            let begin = Instant::now();
            for n in 0..BATCH / 3 {
                let source = IpAddr::V4((0x0C00_0000 + batch * BATCH + n).into());
                let time = Timestamp::from_millis(1_795_000_000_000 + u64::from(batch) * 50);
                let first = 10_000 + u16::try_from(n * 7 % u32::from(doors)).unwrap() * 3;
                for port in first..first + 3 {
                    let knock = SequencePort { protocol: Protocol::Tcp, port };
                    let packet =
                        LegacyPacket { time, source, destination: SERVER4, knock, flags: TcpFlags::SYN };
                    matcher.take(black_box(&packet), &mut |event| {
                        let _ = black_box(event);
                    });
                }
            }
            times.push(begin.elapsed() / BATCH);
        }
    }
    let [one, many] = times.map(Spread::of);
    one.print("a packet, 1 door", None);
    many.print(&format!("a packet, {MANY} doors"), Some(one.median() * 1.2));
}

fn start_with_many_doors(lab: &Lab) {
    let doors = doors(MANY);
    let starts = (0..20).map(|_| {
        let begin = Instant::now();
        Knockd::launch_ours(&lab.server, &doors, "").started(START_MAX).expect("it listens");
        begin.elapsed()
    });
    let title = format!("spa-knockd, {MANY} doors (process start → listening)");
    Spread::of(starts.collect::<Vec<_>>()).print(&title, Some(500_000.0));
    let begin = Instant::now();
    let started = Knockd::launch_theirs(&lab.server, &doors, "").started(START_MAX).is_some();
    let state = if started { "listening" } else { "not listening" };
    println!("knockd, {MANY} doors: {state} after {:.1} s", begin.elapsed().as_secs_f64());
}

fn flood(lab: &Lab) {
    const KNOCKS: usize = 20;
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let mut through = |knockd: &Knockd, process: Pid| {
        let knock = || {
            for port in PORTS {
                hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Syn, &[port]);
                thread::sleep(Duration::from_millis(100));
            }
        };
        let opened = || knockd.count("10.77.0.2: a: OPEN SESAME");
        // Knock once before measuring, so that the memory of the capture's ring is included.
        knock();
        thread::sleep(Duration::from_millis(200));
        let before = resident(process);
        let every = Duration::from_millis(1_500);
        let (through, others) = knock_in_a_flood(&mut wire, FLOOD, KNOCKS, every, knock, opened);
        let (grown, lines) = (resident(process).saturating_sub(before), knockd.log().lines().count());
        println!(
            "{through} of {KNOCKS} knocks accepted, {others} others per second; {grown} KiB more, {lines} log lines"
        );
        (through, grown)
    };
    print!("spa-knockd: ");
    let knockd = Knockd::ours(&lab.server, DOOR, "");
    let (opened, grown) = through(&knockd, knockd.watcher());
    drop(knockd);
    print!("knockd: ");
    let knockd = Knockd::theirs(&lab.server, DOOR, "");
    through(&knockd, knockd.id());
    assert_eq!(opened, KNOCKS, "a flood locks no one out");
    assert!(grown <= 2_048, "{grown} KiB more");
}

/// The peak resident memory of a process, in KiB.
fn resident(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
