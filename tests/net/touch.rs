//! Packets that carry nothing: connections that are begun and given up, empty datagrams, and frames of either.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use spa_knock_core::crypto::random;
use spa_knock_core::knock::KnockRange;

use super::{Namespace, Wire};

/// What touches a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    /// The first packet of a TCP connection.
    Syn,
    /// An empty UDP datagram.
    Empty,
    /// One or the other.
    Mixed,
}

/// Touches these ports one after the other, from one of the namespace's own addresses.
pub(crate) fn touch(namespace: &Namespace, from: IpAddr, to: IpAddr, how: Touch, ports: &[u16]) {
    namespace.enter(|| touch_here(from, to, how, ports));
}

/// Three rounds in random order, 2 to 10 ms apart.
pub(crate) fn touch_as_clients_do(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    how: Touch,
    ports: &[u16],
) {
    namespace.enter(|| {
        for _ in 0..3 {
            let mut order: Vec<([u8; 4], u16)> =
                ports.iter().map(|&port| (random().unwrap(), port)).collect();
            order.sort_unstable();
            for (at, ([dice, ..], port)) in order.into_iter().enumerate() {
                let how = match how {
                    Touch::Mixed if at.is_multiple_of(2) => Touch::Syn,
                    Touch::Mixed => Touch::Empty,
                    one => one,
                };
                touch_here(from, to, how, &[port]);
                thread::sleep(Duration::from_millis(2 + u64::from(dice) / 32));
            }
        }
    });
}

fn touch_here(from: IpAddr, to: IpAddr, how: Touch, ports: &[u16]) {
    for (at, &port) in ports.iter().enumerate() {
        let syn = how == Touch::Syn || how == Touch::Mixed && at.is_multiple_of(2);
        // What a firewall on the way out drops may come back as an error.
        if syn {
            let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let stream = socket(family, SockType::Stream, flags, None).unwrap();
            bind(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).unwrap();
            let _ = connect(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, port)));
        } else {
            let _ = UdpSocket::bind((from, 0)).unwrap().send_to(&[], (to, port));
        }
    }
}

/// As many first packets of TCP connections to random ports of the knock range, each from another address.
pub(crate) fn syn_frames(wire: &Wire, to: Ipv4Addr, knock_range: KnockRange, count: usize) -> Vec<Vec<u8>> {
    let frame = |n: usize| {
        let [a, b, ..] = random::<4>().unwrap();
        let port =
            knock_range.low() + u16::from_be_bytes([a, b]) % (knock_range.high() - knock_range.low() + 1);
        let from = Ipv4Addr::from(0x0B00_0000 + u32::try_from(n).unwrap());
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(wire.mac, wire.peer)
            .ipv4(from.octets(), to.octets(), 64)
            .tcp(40_000, port, 7, 1024)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        frame
    };
    (0..count).map(frame).collect()
}
