//! Measures a knock: from sending the datagram to the first SYN that is accepted, and from the start of `spa-knock` to
//! its exit after a reply. Two namespaces on a veth pair, a real daemon, nftables. Needs root.
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
mod spread;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use net::{Daemon, KNOCK_PORT, Lab, NO_LIMITS, SERVER4, Site, open_ssh};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getpeername, socket};
use spread::Spread;

/// Number of knocks, each from its own address, so that no earlier grant applies.
const KNOCKS: u8 = 240;
const FIRST: u8 = 10;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(NO_LIMITS, &open_ssh(30));
    for host in 0..KNOCKS {
        lab.client.ip(&format!("addr add {}/24 dev eth0", source(host)));
    }
    let listener = lab.server.enter(|| TcpListener::bind((SERVER4, 22)).unwrap());
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let _daemon = Daemon::start(&lab.server, &site);

    let opened: Vec<Duration> =
        lab.client.enter(|| (0..KNOCKS).map(|host| knock_until_open(&site, source(host))).collect());
    Spread::of(opened).print("knock to open (datagram leaves → first SYN accepted)", Some(1_000.0));

    let whole: Vec<Duration> = lab.client.enter(|| (0..KNOCKS).map(|_| run_client(&site)).collect());
    Spread::of(whole).print("spa-knock (process start → exit after a reply)", Some(5_000.0));
}

const fn source(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, FIRST + host)
}

/// Sends one datagram, then SYNs until one is accepted.
fn knock_until_open(site: &Site, from: Ipv4Addr) -> Duration {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect((SERVER4, KNOCK_PORT)).unwrap();
    let datagram = site.key("laptop").good();
    assert!(!connects(from), "closed before the knock");
    // Both hosts already know each other's hardware addresses, so the knock does not wait for ARP.
    let start = Instant::now();
    socket.send(&datagram).unwrap();
    while start.elapsed() < Duration::from_secs(2) {
        if connects(from) {
            return start.elapsed();
        }
    }
    panic!("the knock from {from} opened nothing within 2 s");
}

/// Whether one SYN is accepted within 0.2 ms, which is ample on a veth pair.
fn connects(from: Ipv4Addr) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(stream.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0))).unwrap();
    let SocketAddr::V4(server) = SocketAddr::new(SERVER4, 22) else { unreachable!("it is IPv4") };
    match connect(stream.as_raw_fd(), &SockaddrIn::from(server)) {
        Ok(()) => return true,
        Err(Errno::EINPROGRESS) => {}
        Err(error) => panic!("connecting from {from}: {error}"),
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(200) {
        if getpeername::<SockaddrIn>(stream.as_raw_fd()).is_ok() {
            return true;
        }
        // The daemon runs on the same cores.
        std::thread::yield_now();
    }
    false
}

fn run_client(site: &Site) -> Duration {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
    command.arg("--key").arg(site.key_path("laptop")).arg(SERVER4.to_string()).arg("open-ssh");
    command.env_clear().env("HOME", site.folder()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status().unwrap();
    let elapsed = start.elapsed();
    assert!(status.success(), "spa-knock: {status}");
    elapsed
}
