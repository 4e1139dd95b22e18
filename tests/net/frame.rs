//! Frames that no ordinary socket sends: with a VLAN tag, IPv4 options or IPv6 extension headers.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader,
    PacketBuilder, VlanId,
};

use super::{KNOCK_PORT, Namespace};

/// Source port of these frames.
const FROM: u16 = 40_000;

/// One end of a cable, on which frames are sent.
pub(crate) struct Wire {
    pub(crate) mac: [u8; 6],
    pub(crate) peer: [u8; 6],
    capture: pcap::Capture<pcap::Active>,
}

impl Wire {
    /// The end at `here`, with the other end at `there`; each is a namespace and the name of an interface in it.
    pub(crate) fn new(here: (&Namespace, &str), there: (&Namespace, &str)) -> Self {
        let capture = here.0.enter(|| pcap::Capture::from_device(here.1).unwrap().open().unwrap());
        Self { mac: mac(here.0, here.1), peer: mac(there.0, there.1), capture }
    }

    /// Sends a frame over the cable.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.capture.sendpacket(frame).unwrap();
    }
}

fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let json = namespace.run(&format!("ip -j link show dev {interface}"));
    let links: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut bytes = links[0]["address"].as_str().unwrap().split(':');
    [(); 6].map(|()| u8::from_str_radix(bytes.next().unwrap(), 16).unwrap())
}

/// An IPv4 frame as any socket would send it.
pub(crate) fn plain(wire: &Wire, from: Ipv4Addr, to: Ipv4Addr, knock: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(wire.mac, wire.peer)
        .ipv4(from.octets(), to.octets(), 64)
        .udp(FROM, KNOCK_PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, knock).unwrap();
    frame
}

/// An IPv4 frame with an IEEE 802.1Q tag.
pub(crate) fn tagged(wire: &Wire, vlan: u16, from: Ipv4Addr, to: Ipv4Addr, knock: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(wire.mac, wire.peer)
        .single_vlan(VlanId::try_new(vlan).unwrap())
        .ipv4(from.octets(), to.octets(), 64)
        .udp(FROM, KNOCK_PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, knock).unwrap();
    frame
}

/// An IPv4 frame with eight bytes of options: a router alert (RFC 2113) and four no-operations.
pub(crate) fn ipv4_with_options(wire: &Wire, from: Ipv4Addr, to: Ipv4Addr, knock: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, from.octets(), to.octets()).unwrap();
    header.options = [0x94, 4, 0, 0, 1, 1, 1, 1].into();
    let builder = PacketBuilder::ethernet2(wire.mac, wire.peer)
        .ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        .udp(FROM, KNOCK_PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, knock).unwrap();
    frame
}

/// An IPv6 frame with a hop-by-hop and a destination options header, each filled with padding (RFC 8200, section 4.2).
pub(crate) fn ipv6_with_extensions(wire: &Wire, from: Ipv6Addr, to: Ipv6Addr, knock: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        hop_limit: 64,
        source: from.octets(),
        destination: to.octets(),
        ..Ipv6Header::default()
    };
    // A PadN option that fills the six bytes after the fixed part.
    let padding = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]).unwrap();
    let extensions = Ipv6Extensions {
        hop_by_hop_options: Some(padding.clone()),
        destination_options: Some(padding),
        ..Ipv6Extensions::default()
    };
    let builder = PacketBuilder::ethernet2(wire.mac, wire.peer)
        .ip(IpHeaders::Ipv6(header, extensions))
        .udp(FROM, KNOCK_PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, knock).unwrap();
    frame
}
