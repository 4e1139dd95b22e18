//! Any bytes are a packet or none, for every link type, and etherparse, another parser, agrees in every field: addresses,
//! ports, protocol, flags, payload, and whether there is a packet. Where one of the two reads more than the other, the
//! reason is listed here. A segment that is framed again is read unchanged.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ipv6ExtensionSlice, LinkExtSlice, LinkSlice, LinuxSllProtocolType, NetSlice, PacketBuilder,
    SlicedPacket, TcpSlice, TransportSlice, ip_number,
};
use libfuzzer_sys::fuzz_target;
use spa_knock::packet::{LinkType, Packet, Segment, TcpFlags, Transport, is_fragment};
use spa_knock_core::knock::{canonical, mapped};

const LINKS: [LinkType; 5] =
    [LinkType::Ethernet, LinkType::LinuxCooked, LinkType::LinuxCooked2, LinkType::Raw, LinkType::Loopback];

fuzz_target!(|frame: &[u8]| {
    for link in LINKS {
        let ours = Packet::read(link, frame);
        if let Some(packet) = ours {
            for address in [packet.source.ip(), packet.destination.ip()] {
                assert_eq!(address, canonical(address), "an IPv4-mapped address");
            }
            let interface =
                (link == LinkType::LinuxCooked2).then(|| frame[4..8].try_into().expect("4 bytes"));
            assert_eq!(packet.interface, interface.map(u32::from_be_bytes));
        }
        let segment = Segment::read(link, frame);
        assert_eq!(segment, ours.and_then(Packet::segment));
        if let Some(segment) = segment {
            let framed = framed(&segment);
            assert_eq!(Segment::read(LinkType::Raw, &framed), Some(Segment { interface: None, ..segment }));
        }
        // Etherparse refuses a frame if anything in it is wrong, also what concerns no knock.
        let Some(theirs) = sliced(link, frame) else { continue };
        check_fragment(&theirs, link, frame);
        match (ours, read(&theirs)) {
            (Some(ours), Some(theirs)) => assert_eq!(theirs, Packet { interface: None, ..ours }, "{link:?}"),
            (Some(ours), None) => check_unread(&ours, &theirs),
            (None, Some(_)) => assert!(is_beyond_us(&theirs), "{link:?}: not read"),
            (None, None) => {}
        }
    }
});

/// The frame, as etherparse reads it. It does not know the header of cooked frames of version 2 and of the loopback.
fn sliced(link: LinkType, frame: &[u8]) -> Option<SlicedPacket<'_>> {
    match link {
        LinkType::Ethernet => SlicedPacket::from_ethernet(frame).ok(),
        LinkType::Raw => SlicedPacket::from_ip(frame).ok(),
        LinkType::LinuxCooked => SlicedPacket::from_linux_sll(frame).ok(),
        LinkType::LinuxCooked2 => {
            let ethertype = EtherType(u16::from_be_bytes(*frame.first_chunk()?));
            SlicedPacket::from_ether_type(ethertype, frame.get(20..)?).ok()
        }
        LinkType::Loopback => SlicedPacket::from_ip(frame.get(4..)?).ok(),
    }
}

/// The UDP or TCP packet that etherparse has found.
fn read<'a>(packet: &SlicedPacket<'a>) -> Option<Packet<'a>> {
    let (from, to): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let ((source, destination), transport) = match packet.transport.as_ref()? {
        TransportSlice::Udp(udp) => {
            ((udp.source_port(), udp.destination_port()), Transport::Udp { payload: Some(udp.payload()) })
        }
        TransportSlice::Tcp(tcp) => {
            ((tcp.source_port(), tcp.destination_port()), Transport::Tcp { flags: flags(tcp) })
        }
        _ => return None,
    };
    let end = |address, port| SocketAddr::new(canonical(address), port);
    Some(Packet { source: end(from, source), destination: end(to, destination), interface: None, transport })
}

fn flags(tcp: &TcpSlice<'_>) -> TcpFlags {
    let all = [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()];
    TcpFlags::of(all.into_iter().enumerate().map(|(bit, is_set)| u8::from(is_set) << bit).sum())
}

/// We read a packet that they do not: it is the first fragment of one, or from a kind of device whose packets they leave
/// unread. The type of device does not concern us: what comes from it as IP is verified as any other packet.
fn check_unread(ours: &Packet<'_>, theirs: &SlicedPacket<'_>) {
    if let Some(LinkSlice::LinuxSll(cooked)) = &theirs.link
        && !matches!(cooked.protocol_type(), LinuxSllProtocolType::EtherType(_))
    {
        return;
    }
    assert!(theirs.is_ip_payload_fragmented(), "not in the frame: {ours:?}");
    assert!(ours.segment().is_none(), "a fragment is no segment");
}

fn check_fragment(theirs: &SlicedPacket<'_>, link: LinkType, frame: &[u8]) {
    match &theirs.net {
        Some(NetSlice::Ipv4(_)) => {
            let is_theirs = theirs.is_ip_payload_fragmented();
            // With more than two tags, we do not get there.
            assert!(is_fragment(link, frame) == is_theirs || has_other_tags(theirs), "{link:?}");
        }
        Some(NetSlice::Ipv6(ip)) => {
            let is_next = ip.header().next_header() == ip_number::IPV6_FRAGMENTATION_HEADER;
            assert!(is_fragment(link, frame) == is_next || has_other_tags(theirs), "{link:?}");
        }
        _ => {}
    }
}

/// Whether they read more than a knock can contain: a third tag, a MACsec header, extension headers of IPsec and of
/// fragments, more than eight of the others, and lengths of zero, which mean "up to the end of the frame" to them.
fn is_beyond_us(theirs: &SlicedPacket<'_>) -> bool {
    let is_beyond_ip = match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => ip.extensions().auth.is_some(),
        Some(NetSlice::Ipv6(ip)) => {
            let is_known = |header: &Ipv6ExtensionSlice<'_>| {
                matches!(
                    header,
                    Ipv6ExtensionSlice::HopByHop(_)
                        | Ipv6ExtensionSlice::Routing(_)
                        | Ipv6ExtensionSlice::DestinationOptions(_)
                )
            };
            let headers: Vec<_> = ip.extensions().clone().into_iter().collect();
            ip.header().payload_length() == 0 || headers.len() > 8 || !headers.iter().all(is_known)
        }
        _ => false,
    };
    let has_no_length = matches!(&theirs.transport, Some(TransportSlice::Udp(udp)) if udp.length() == 0);
    is_beyond_ip || has_no_length || has_other_tags(theirs)
}

fn has_other_tags(theirs: &SlicedPacket<'_>) -> bool {
    theirs.link_exts.len() > 2 || theirs.link_exts.iter().any(|tag| matches!(tag, LinkExtSlice::Macsec(_)))
}

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
