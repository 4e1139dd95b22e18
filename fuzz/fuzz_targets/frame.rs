//! Any bytes are a segment or none, for every link type. A segment that is framed again is read unchanged, and if
//! another parser also finds UDP, it finds the same.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;
use spa_knock::packet::{LinkType, Segment};
use spa_knock_core::knock::{canonical, mapped};

const LINKS: [LinkType; 5] =
    [LinkType::Ethernet, LinkType::LinuxCooked, LinkType::LinuxCooked2, LinkType::Raw, LinkType::Loopback];

fuzz_target!(|frame: &[u8]| {
    for link in LINKS {
        let Some(segment) = Segment::read(link, frame) else { continue };
        for address in [segment.source.ip(), segment.destination.ip()] {
            assert_eq!(address, canonical(address), "an IPv4-mapped address");
        }
        assert_eq!(segment.interface.is_some(), link == LinkType::LinuxCooked2);
        let framed = framed(&segment);
        assert_eq!(Segment::read(LinkType::Raw, &framed), Some(Segment { interface: None, ..segment }));
        let other = match link {
            LinkType::Ethernet => SlicedPacket::from_ethernet(frame),
            LinkType::Raw => SlicedPacket::from_ip(frame),
            LinkType::LinuxCooked => SlicedPacket::from_linux_sll(frame),
            LinkType::LinuxCooked2 | LinkType::Loopback => continue,
        };
        let Ok(other) = other else { continue };
        assert!(!other.is_ip_payload_fragmented(), "{link:?}");
        match ends(&other) {
            Some(theirs) => {
                assert_eq!(theirs, (segment.source, segment.destination, segment.payload), "{link:?}");
            }
            None => assert!(other.transport.is_none(), "{link:?}: not UDP"),
        }
    }
});

/// The segment in the simplest packet that can carry it.
fn framed(segment: &Segment<'_>) -> Vec<u8> {
    let (source, destination) = (segment.source, segment.destination);
    let builder = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (from, to) => PacketBuilder::ipv6(mapped(from).octets(), mapped(to).octets(), 64),
    };
    let mut packet = Vec::new();
    let builder = builder.udp(source.port(), destination.port());
    builder.write(&mut packet, segment.payload).expect("a payload that came in one packet");
    packet
}

/// Source, destination and payload according to the other parser, if it finds a whole UDP datagram.
fn ends<'a>(packet: &SlicedPacket<'a>) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
    let (from, to): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    let end = |address, port| SocketAddr::new(canonical(address), port);
    Some((end(from, udp.source_port()), end(to, udp.destination_port()), udp.payload()))
}
