//! Measures port sequences: the keeper's check of a complete sequence with 1,000 clients of 5 actions each, and the
//! time from the start of `spa-knock` to the first SYN that is accepted. The latter needs root: two namespaces on a
//! veth pair, a real daemon, nftables.
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
#[path = "../core/tests/policy/mod.rs"]
mod policy;
mod spread;

use std::hash::RandomState;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use net::{Daemon, Lab, NO_LIMITS, SERVER4, Site, await_time_step, open_ssh};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getpeername, socket,
};
use policy::{client, open, policy};
use spa_knock_core::auth::{Decision, Keeper, KeyLimit, PortSequence, ReplayMemory, WatchedKey, Watcher};
use spa_knock_core::crypto::KeySet;
use spa_knock_core::knock::{KnockRange, Now, Steady, TimeStep, Timestamp};
use spa_knock_core::wire::{proof, selector, sequence};

const CLIENTS: u16 = 1_000;
const ACTIONS: [&str; 5] = ["a", "b", "c", "d", "open-ssh"];
const NOW: u64 = 1_795_331_877_123;
/// Number of knocks, each from its own address, so that no earlier grant applies.
const KNOCKS: u8 = 100;
const FIRST: u8 = 10;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    complete_sets();
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(NO_LIMITS, &format!("[ports]\n{}", open_ssh(60)));
    for host in 0..=u8::MAX - FIRST {
        lab.client.ip(&format!("addr add {}/24 dev eth0", source(host)));
    }
    let listener = lab.server.enter(|| TcpListener::bind((SERVER4, 22)).unwrap());
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let _daemon = Daemon::start(&lab.server, &site);
    // No sequence of the time step in which the first daemon started is accepted.
    await_time_step(30);
    let mut host = 0;
    for (what, gap, target) in [("2 to 10 ms apart", None, 200_000.0), ("--ports-gap 0", Some("0"), 25_000.0)]
    {
        let knocks = (0..KNOCKS).map(|_| {
            host += 1;
            await_time_step(3);
            knock_until_open(&lab, &site, source(host), gap)
        });
        let opened: Vec<Duration> = knocks.collect();
        Spread::of(opened)
            .print(&format!("spa-knock --ports, {what}: start → first SYN accepted"), Some(target));
    }
}

use spread::Spread;

fn keys(n: u16) -> KeySet {
    let mut secret = [7; 32];
    secret[..2].copy_from_slice(&n.to_be_bytes());
    policy::keys(secret)
}

/// The watcher's part and the keeper's steps 5 to 8, for one sequence of each client.
fn complete_sets() {
    let watched = (0..CLIENTS).map(keys).map(|keys| WatchedKey::of(&keys, KeyLimit::default()));
    let mut watcher = Watcher::new(Duration::from_secs(30), watched);
    watcher.watch_range(KnockRange::USUAL, RandomState::new());
    let mut now =
        Now { wall: Timestamp::from_millis(NOW), steady: Steady::from_duration(Duration::from_secs(1_000)) };
    watcher.prepare(now.wall);
    let clients = (0..CLIENTS).map(|n| client(&format!("client-{n}"), &keys(n), &ACTIONS));
    let policy = policy(ACTIONS.map(|action| (action, open("tcp/22"))), clients);
    let mut keeper = Keeper::new(policy, ReplayMemory::new(Timestamp::default()));
    let step = TimeStep::of(now.wall);
    let (mut watched, mut judged) = (Vec::new(), Vec::new());
    for n in 0..CLIENTS {
        // Stays within the rate of sequences that are passed on.
        now.steady = now.steady.plus(Duration::from_millis(2));
        let from: IpAddr = Ipv4Addr::from(0x0A00_0000 + u32::from(n)).into();
        let client = keys(n).client().ports.unwrap();
        let proof = proof(&client.proof, step, Some(from), &"open-ssh".parse().unwrap(), KnockRange::USUAL);
        let ports = sequence(selector(&client.selector, step, KnockRange::USUAL), &proof);
        let start = Instant::now();
        for port in ports {
            watcher.record_hit(SocketAddr::new(from, 4_000), SERVER4, port, now.steady);
        }
        let passed: Vec<PortSequence> = std::iter::from_fn(|| watcher.next_sequence(now)).collect();
        watched.push(start.elapsed());
        // Among so many clients, some share their first two ports.
        assert!(!passed.is_empty());
        let start = Instant::now();
        let mut opened = 0;
        for result in
            passed.iter().flat_map(|sequence| keeper.judge_sequence(sequence, now)).collect::<Vec<_>>()
        {
            let Ok(accepted) = result else { panic!("refused") };
            let Decision::Execute(_) = keeper.decide(accepted, now) else { panic!("refused") };
            opened += 1;
        }
        judged.push(start.elapsed());
        assert_eq!(opened, 1);
    }
    Spread::of(watched).print("watcher: eight packets, of 1,000 clients", None);
    Spread::of(judged).print("keeper: a complete set, 1,000 clients × 5 actions", Some(20.0));
}

const fn source(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, FIRST + host)
}

/// Starts the client, then sends SYNs until one is accepted.
fn knock_until_open(lab: &Lab, site: &Site, from: Ipv4Addr, gap: Option<&str>) -> Duration {
    // Selects the source address of the client's packets.
    lab.client.ip(&format!("route replace 10.77.0.0/24 dev eth0 src {from}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
    command.arg("--key").arg(site.key_path("laptop")).arg(SERVER4.to_string()).args(["open-ssh", "--ports"]);
    command.args(gap.map(|gap| format!("--ports-gap={gap}")));
    command.env_clear().env("HOME", site.folder()).stderr(Stdio::null());
    lab.client.enter(|| {
        assert!(!connects(from), "closed before the knock");
        let start = Instant::now();
        let mut client = command.spawn().unwrap();
        let mut opened = None;
        while opened.is_none() && start.elapsed() < Duration::from_secs(2) {
            if connects(from) {
                opened = Some(start.elapsed());
            }
        }
        assert!(client.wait().unwrap().success());
        opened.unwrap_or_else(|| panic!("the knock from {from} opened nothing within 2 s"))
    })
}

/// Whether one SYN is accepted within 0.5 ms, which is ample on a veth pair.
fn connects(from: Ipv4Addr) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((from, 0)))).unwrap();
    let _ = connect(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(SERVER4, 22)));
    // The daemon and the client run on the same cores.
    std::thread::sleep(Duration::from_micros(500));
    getpeername::<SockaddrStorage>(stream.as_raw_fd()).is_ok()
}
