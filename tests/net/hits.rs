//! Port hits: packets without payload, which are the first packets of TCP connections and empty datagrams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use spa_knock_core::crypto::random;
use spa_knock_core::knock::KnockRange;

use super::{Namespace, Wire};

/// The kind of packet that hits a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HitKind {
    /// The first packet of a TCP connection.
    Syn,
    /// An empty UDP datagram.
    Empty,
    /// Alternately a SYN and an empty datagram.
    Mixed,
}

/// Sends a packet to each of these ports in order, from one of the namespace's addresses.
pub(crate) fn hit_ports(namespace: &Namespace, from: IpAddr, to: IpAddr, kind: HitKind, ports: &[u16]) {
    namespace.enter(|| hit_ports_here(from, to, kind, ports));
}

/// Sends packets to these ports as the client program does: three rounds, each in random order, 2 to 10 ms apart.
pub(crate) fn hit_ports_as_clients_do(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    kind: HitKind,
    ports: &[u16],
) {
    namespace.enter(|| {
        for _ in 0..3 {
            let mut order: Vec<([u8; 4], u16)> =
                ports.iter().map(|&port| (random().unwrap(), port)).collect();
            order.sort_unstable();
            for (at, ([dice, ..], port)) in order.into_iter().enumerate() {
                let kind = match kind {
                    HitKind::Mixed if at.is_multiple_of(2) => HitKind::Syn,
                    HitKind::Mixed => HitKind::Empty,
                    one => one,
                };
                hit_ports_here(from, to, kind, &[port]);
                thread::sleep(Duration::from_millis(2 + u64::from(dice) / 32));
            }
        }
    });
}

fn hit_ports_here(from: IpAddr, to: IpAddr, kind: HitKind, ports: &[u16]) {
    for (at, &port) in ports.iter().enumerate() {
        let syn = kind == HitKind::Syn || kind == HitKind::Mixed && at.is_multiple_of(2);
        // If the firewall of this namespace drops the packet, the call may fail.
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

/// `count` frames with first packets of TCP connections to random ports of the knock range, each from another address.
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
