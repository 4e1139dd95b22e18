//! Parses link, VLAN, IPv4 or IPv6, and UDP or TCP headers into a packet, and a complete UDP datagram into a segment.
//! Never fails: any other bytes are `None`.
//!
//! Sources: LINKTYPE_ list of tcpdump.org, IEEE 802.1Q, RFC 791, RFC 8200, RFC 768, RFC 9293. Checksums are not
//! verified, because knocks are authenticated.

mod kernel_log;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use kernel_log::{KernelLogLine, SyslogLine};

use spa_knock_core::knock::canonical;

/// The type of a frame's first header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// Ethernet, with or without VLAN tags.
    Ethernet,
    /// Linux cooked capture, from the `any` interface.
    LinuxCooked,
    /// Linux cooked capture, version 2: includes the interface.
    LinuxCooked2,
    /// An IP header without a link header.
    Raw,
    /// A protocol family of four bytes (BSD loopback).
    Loopback,
}

/// The UDP or TCP packet in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The source address and port.
    pub source: SocketAddr,
    /// The destination address and port.
    pub destination: SocketAddr,
    /// The index of the interface, if the frame includes it.
    pub interface: Option<u32>,
    /// The transport protocol.
    pub transport: Transport<'a>,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport<'a> {
    /// UDP.
    Udp {
        /// The payload. `None` if it continues in other fragments or a log does not include it.
        payload: Option<&'a [u8]>,
    },
    /// TCP.
    Tcp {
        /// The flags.
        flags: TcpFlags,
    },
}

/// The flags of a TCP header (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Resets the connection.
    pub const RST: Self = Self(0x04);
    /// The receiver should deliver the data immediately.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);

    /// The flags in the 14th byte of a header.
    #[must_use]
    pub const fn of(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte in the header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Whether all of these are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// A complete UDP datagram in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The source address and port.
    pub source: SocketAddr,
    /// The destination address and port.
    pub destination: SocketAddr,
    /// The index of the interface, if the frame includes it.
    pub interface: Option<u32>,
    /// The UDP payload.
    pub payload: &'a [u8],
}

/// The link type of a capture is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("link type {0} is not supported (supported: Ethernet, Linux cooked, raw IP, loopback)")]
pub struct UnknownLink(pub i32);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;
const TCP: u8 = 6;
/// The length of a TCP header without options.
pub(crate) const TCP_HEADER: usize = 20;
const UDP: u8 = 17;
/// The length of a UDP header. UDP's length field includes it.
pub(crate) const UDP_HEADER: usize = 8;
/// Most IPv6 extension headers. Real packets have one or two.
const EXTENSIONS_MAX: usize = 8;
/// Most VLAN tags: a customer's tag inside a provider's.
const VLAN_TAGS_MAX: usize = 2;

impl TryFrom<i32> for LinkType {
    type Error = UnknownLink;

    /// Converts libpcap's DLT_ number.
    fn try_from(dlt: i32) -> Result<Self, UnknownLink> {
        match dlt {
            1 => Ok(Self::Ethernet),
            113 => Ok(Self::LinuxCooked),
            276 => Ok(Self::LinuxCooked2),
            // DLT_RAW on Linux, LINKTYPE_RAW, _IPV4 and _IPV6 in files.
            12 | 101 | 228 | 229 => Ok(Self::Raw),
            0 | 108 => Ok(Self::Loopback),
            other => Err(UnknownLink(other)),
        }
    }
}

impl<'a> Packet<'a> {
    /// Parses the TCP or UDP packet in a frame. `None` if there is none or its header is incomplete. The first fragment
    /// of IPv4 is a packet; other fragments are not.
    #[must_use]
    pub fn read(link: LinkType, frame: &'a [u8]) -> Option<Self> {
        let (network, interface) = skip_link(link, frame)?;
        Self::of(&Network::read(network)?, interface)
    }

    /// The packet in an IP packet.
    pub(crate) fn of(network: &Network<'a>, interface: Option<u32>) -> Option<Self> {
        let [s1, s0, d1, d0, ..] = *network.payload.first_chunk::<4>()?;
        let transport = match network.protocol {
            UDP => Transport::Udp { payload: read_udp(network)? },
            TCP => {
                let [.., flags, _, _, _, _, _, _] = *network.payload.first_chunk::<TCP_HEADER>()?;
                Transport::Tcp { flags: TcpFlags::of(flags) }
            }
            _ => return None,
        };
        Some(Self {
            source: SocketAddr::new(canonical(network.source), u16::from_be_bytes([s1, s0])),
            destination: SocketAddr::new(canonical(network.destination), u16::from_be_bytes([d1, d0])),
            interface,
            transport,
        })
    }

    /// Whether this packet can be a port hit: the first packet of a TCP connection, or an empty UDP datagram.
    #[must_use]
    pub fn is_port_hit(&self) -> bool {
        match self.transport {
            Transport::Udp { payload } => payload.is_some_and(<[u8]>::is_empty),
            Transport::Tcp { flags } => {
                let others = [TcpFlags::ACK, TcpFlags::RST, TcpFlags::FIN];
                flags.has(TcpFlags::SYN) && !others.into_iter().any(|other| flags.has(other))
            }
        }
    }

    /// The UDP datagram, if this is a complete one.
    #[must_use]
    pub fn segment(self) -> Option<Segment<'a>> {
        let Self { source, destination, interface, transport } = self;
        let Transport::Udp { payload: Some(payload) } = transport else { return None };
        Some(Segment { source, destination, interface, payload })
    }
}

impl<'a> Segment<'a> {
    /// Parses the UDP datagram in a frame. `None` if there is no complete, unfragmented one.
    #[must_use]
    pub fn read(link: LinkType, frame: &'a [u8]) -> Option<Self> {
        Packet::read(link, frame)?.segment()
    }
}

/// Whether a frame contains an IP fragment, the first or a later one. For IPv6, checks only for a fragment header
/// directly after the main header, where senders put it.
#[must_use]
pub fn is_fragment(link: LinkType, frame: &[u8]) -> bool {
    const FRAGMENT: u8 = 44;
    let fragment = |packet: &[u8]| match packet.first()? >> 4 {
        4 => Some(u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3FFF != 0),
        6 => Some(*packet.get(6)? == FRAGMENT),
        _ => None,
    };
    skip_link(link, frame).and_then(|(packet, _)| fragment(packet)).unwrap_or(false)
}

/// The frame from its network header on, and the index of the interface.
pub(crate) fn skip_link(link: LinkType, frame: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let number = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    match link {
        LinkType::Ethernet => Some((skip_tags(number(12)?, frame.get(14..)?)?, None)),
        LinkType::LinuxCooked => Some((skip_tags(number(14)?, frame.get(16..)?)?, None)),
        LinkType::LinuxCooked2 => {
            let interface = u32::from_be_bytes(*frame.get(4..)?.first_chunk()?);
            Some((skip_tags(number(0)?, frame.get(20..)?)?, Some(interface)))
        }
        LinkType::Raw => Some((frame, None)),
        // The number of the family depends on the operating system, so the IP version after it is used instead.
        LinkType::Loopback => Some((frame.get(4..)?, None)),
    }
}

fn skip_tags(mut ethertype: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..=VLAN_TAGS_MAX {
        match ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => return Some(rest),
            // 802.1Q, 802.1ad, and the older ethertype of the outer tag.
            0x8100 | 0x88A8 | 0x9100 => {
                let ([_, _, high, low], inner) = rest.split_first_chunk()?;
                (ethertype, rest) = (u16::from_be_bytes([*high, *low]), inner);
            }
            _ => return None,
        }
    }
    None
}

/// An IP packet that is not a later fragment.
pub(crate) struct Network<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Whether it is complete, not a first fragment.
    pub(crate) whole: bool,
    /// The transport header, and what follows it.
    pub(crate) payload: &'a [u8],
}

impl<'a> Network<'a> {
    /// Parses an IP packet of either version.
    pub(crate) fn read(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_ipv4(packet),
            6 => Self::read_ipv6(packet),
            _ => None,
        }
    }

    fn read_ipv4(packet: &'a [u8]) -> Option<Self> {
        let (header, _) = packet.split_first_chunk::<20>()?;
        let [version_ihl, _, t1, t0, _, _, f1, f0, _, protocol, _, _, addresses @ ..] = *header;
        // Bit 13 is the flag "more fragments"; the bits below are the fragment offset.
        let fragment = u16::from_be_bytes([f1, f0]);
        if fragment & 0x1FFF != 0 {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([t1, t0]));
        let header_length = usize::from(version_ihl & 0x0F).checked_mul(4).filter(|&length| length >= 20)?;
        let [s3, s2, s1, s0, d3, d2, d1, d0] = addresses;
        Some(Self {
            source: Ipv4Addr::new(s3, s2, s1, s0).into(),
            destination: Ipv4Addr::new(d3, d2, d1, d0).into(),
            protocol,
            whole: fragment & 0x2000 == 0,
            payload: packet.get(header_length..total)?,
        })
    }

    fn read_ipv6(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<40>()?;
        let [_, _, _, _, l1, l0, next, _, addresses @ ..] = *header;
        let (source, addresses) = addresses.split_first_chunk::<16>()?;
        let destination: &[u8; 16] = addresses.first_chunk()?;
        let payload = rest.get(..usize::from(u16::from_be_bytes([l1, l0])))?;
        let (protocol, payload) = skip_extensions(next, payload)?;
        Some(Self {
            source: Ipv6Addr::from(*source).into(),
            destination: Ipv6Addr::from(*destination).into(),
            protocol,
            whole: true,
            payload,
        })
    }
}

/// The payload of a UDP datagram: `Some(None)` for a first fragment, `None` for an invalid datagram.
fn read_udp<'a>(network: &Network<'a>) -> Option<Option<&'a [u8]>> {
    let [.., l1, l0, _, _] = *network.payload.first_chunk::<UDP_HEADER>()?;
    let length = usize::from(u16::from_be_bytes([l1, l0]));
    if !network.whole {
        return Some(None);
    }
    network.payload.get(UDP_HEADER..length).map(Some)
}

/// The protocol after the extension headers, and its data.
fn skip_extensions(mut next: u8, mut rest: &[u8]) -> Option<(u8, &[u8])> {
    for _ in 0..=EXTENSIONS_MAX {
        match next {
            UDP | TCP => return Some((next, rest)),
            // Hop-by-hop options, routing, destination options; not the fragment header.
            0 | 43 | 60 => {
                let [following, units, ..] = *rest.first_chunk::<8>()?;
                let length = usize::from(units).checked_add(1)?.checked_mul(8)?;
                (next, rest) = (following, rest.get(length..)?);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const PAYLOAD: &[u8] = b"the client's payload";

    fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, PAYLOAD).unwrap();
        frame
    }

    fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2([1; 6], [2; 6])
    }

    fn expect(link: LinkType, frame: &[u8], interface: Option<u32>) {
        let segment = Segment::read(link, frame).expect("a segment");
        assert_eq!(segment.payload, PAYLOAD);
        assert_eq!((segment.source.port(), segment.destination.port()), (4000, 62201));
        assert_eq!(segment.interface, interface);
    }

    #[test]
    fn datagrams_are_parsed_for_every_link_type() {
        let ip = built(PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201));
        let plain = built(ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201));
        expect(LinkType::Ethernet, &plain, None);
        expect(LinkType::Raw, &ip, None);
        expect(LinkType::Loopback, &[&[2, 0, 0, 0], ip.as_slice()].concat(), None);
        expect(LinkType::LinuxCooked, &[&[0; 14], [8, 0].as_slice(), &ip].concat(), None);
        let cooked2 = [&[8, 0, 0, 0, 0, 0, 0, 7], [0; 12].as_slice(), &ip].concat();
        expect(LinkType::LinuxCooked2, &cooked2, Some(7));
        let tagged_cooked = [&[0; 14], [0x81, 0, 0, 5, 8, 0].as_slice(), &ip].concat();
        expect(LinkType::LinuxCooked, &tagged_cooked, None);
    }

    #[test]
    fn each_number_of_libpcap_has_its_link_type_and_all_others_are_refused() {
        let known = [
            (1, LinkType::Ethernet),
            (113, LinkType::LinuxCooked),
            (276, LinkType::LinuxCooked2),
            (12, LinkType::Raw),
            (101, LinkType::Raw),
            (228, LinkType::Raw),
            (229, LinkType::Raw),
            (0, LinkType::Loopback),
            (108, LinkType::Loopback),
        ];
        for number in -1..300 {
            let link = known.iter().find(|(known, _)| *known == number).map(|(_, link)| *link);
            assert_eq!(LinkType::try_from(number), link.ok_or(UnknownLink(number)));
        }
        assert_eq!(
            UnknownLink(7).to_string(),
            "link type 7 is not supported (supported: Ethernet, Linux cooked, raw IP, loopback)"
        );
    }

    #[test]
    fn a_frame_has_at_most_two_tags() {
        let ip = built(PacketBuilder::ipv4([1; 4], [2; 4], 64).udp(4000, 62201));
        for ethertype in [0x8100_u16, 0x88A8, 0x9100] {
            for (tags, is_read) in [(1, true), (2, true), (3, false)] {
                let tag = [&ethertype.to_be_bytes()[..], &[0, 5]].concat();
                let frame = [&[0; 12][..], &tag.repeat(tags), &[8, 0], &ip].concat();
                assert_eq!(Segment::read(LinkType::Ethernet, &frame).is_some(), is_read, "{tags} tags");
            }
        }
    }

    #[test]
    fn datagrams_are_parsed_with_tags_options_and_padding() {
        let vlan = etherparse::VlanId::try_new(5).unwrap();
        expect(
            LinkType::Ethernet,
            &built(ethernet().single_vlan(vlan).ipv6([1; 16], [2; 16], 64).udp(4000, 62201)),
            None,
        );
        expect(
            LinkType::Ethernet,
            &built(ethernet().double_vlan(vlan, vlan).ipv4([1; 4], [2; 4], 64).udp(4000, 62201)),
            None,
        );
        let mut padded = built(ethernet().ipv4([1; 4], [2; 4], 64).udp(4000, 62201));
        padded.extend([0xAA; 30]);
        expect(LinkType::Ethernet, &padded, None);

        // IPv4 with four bytes of options.
        let plain = built(PacketBuilder::ipv4([1; 4], [2; 4], 64).udp(4000, 62201));
        let mut options = plain.clone();
        options[0] = 0x46;
        options[3] += 4;
        options.splice(20..20, [1, 1, 1, 0]);
        expect(LinkType::Raw, &options, None);
    }

    #[test]
    fn datagrams_are_parsed_after_ipv6_extension_headers_but_not_in_fragments() {
        let plain = built(PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(4000, 62201));
        let extended = |kinds: &[u8]| {
            let mut frame = plain.clone();
            for &kind in kinds.iter().rev() {
                let next = std::mem::replace(&mut frame[6], kind);
                frame.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]);
                frame[5] += 8;
            }
            frame
        };
        expect(LinkType::Raw, &extended(&[0]), None);
        expect(LinkType::Raw, &extended(&[0, 60, 43, 60]), None);
        assert_eq!(Segment::read(LinkType::Raw, &extended(&[44])), None);
        assert_eq!(Segment::read(LinkType::Raw, &extended(&[60; 9])), None);
    }

    #[test]
    fn fragments_other_protocols_and_wrong_lengths_are_rejected() {
        let plain = built(PacketBuilder::ipv4([1; 4], [2; 4], 64).udp(4000, 62201));
        let changed = |at: usize, to: u8| {
            let mut frame = plain.clone();
            frame[at] = to;
            frame
        };
        for (name, frame) in [
            ("more fragments", changed(6, 0x20)),
            ("a fragment offset", changed(7, 1)),
            ("TCP", changed(9, 6)),
            ("a header of 16 bytes", changed(0, 0x44)),
            ("IP version 5", changed(0, 0x55)),
            ("UDP longer than IP", changed(25, 60)),
            ("UDP shorter than its header", changed(25, 7)),
            ("IP longer than the frame", changed(3, 200)),
        ] {
            assert_eq!(Segment::read(LinkType::Raw, &frame), None, "{name}");
        }
        // A packet with "don't fragment" is not a fragment.
        expect(LinkType::Raw, &changed(6, 0x40), None);
    }

    #[test]
    fn tcp_packets_have_ports_and_flags() {
        let packet = |builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>| {
            let mut frame = Vec::new();
            builder.write(&mut frame, b"more").unwrap();
            frame
        };
        let v4 = || PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(4000, 22, 7, 9);
        let v6 = || PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(4000, 22, 7, 9);
        let all = [TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST, TcpFlags::PSH, TcpFlags::ACK, TcpFlags::URG];
        for (frame, set) in [
            (packet(v4()), [false; 6]),
            (packet(v4().syn()), [false, true, false, false, false, false]),
            (packet(v6().syn().ack(5)), [false, true, false, false, true, false]),
            (packet(v6().fin().psh().urg(1)), [true, false, false, true, false, true]),
            (packet(v4().rst()), [false, false, true, false, false, false]),
        ] {
            let read = Packet::read(LinkType::Raw, &frame).unwrap();
            let Transport::Tcp { flags } = read.transport else { panic!("{read:?}") };
            assert_eq!(all.map(|flag| flags.has(flag)), set);
            assert_eq!((read.source.port(), read.destination.port()), (4000, 22));
            assert_eq!(Segment::read(LinkType::Raw, &frame), None);
            for length in 0..frame.len() {
                assert_eq!(Packet::read(LinkType::Raw, &frame[..length]), None, "{length}");
            }
        }
    }

    #[test]
    fn a_first_fragment_is_a_packet_but_not_a_segment() {
        let mut frame = built(PacketBuilder::ipv4([1; 4], [2; 4], 64).udp(4000, 62201));
        frame[6] = 0x20;
        let first = Packet::read(LinkType::Raw, &frame).unwrap();
        assert_eq!((first.destination.port(), first.transport), (62201, Transport::Udp { payload: None }));
        assert_eq!(Segment::read(LinkType::Raw, &frame), None);
        frame[7] = 1;
        assert_eq!(Packet::read(LinkType::Raw, &frame), None, "the second");
    }

    #[test]
    fn a_port_hit_is_the_first_packet_of_a_connection_or_an_empty_datagram() {
        let address = "10.0.0.1:4000".parse().unwrap();
        let is_hit = |transport| {
            Packet { source: address, destination: address, interface: None, transport }.is_port_hit()
        };
        for byte in 0..=u8::MAX {
            let [fin, syn, rst, ack] = [0x01, 0x02, 0x04, 0x10].map(|bit| byte & bit != 0);
            let expected = syn && !fin && !rst && !ack;
            assert_eq!(is_hit(Transport::Tcp { flags: TcpFlags::of(byte) }), expected, "{byte:#x}");
        }
        for (payload, expected) in [(Some(&b""[..]), true), (Some(b"x"), false), (None, false)] {
            assert_eq!(is_hit(Transport::Udp { payload }), expected, "{payload:?}");
        }
    }

    #[test]
    fn every_fragment_is_recognized_and_no_whole_packet_is() {
        // The version, and in IPv4 flags and offset, in IPv6 the next header.
        for (version, at_6, at_7, expected) in [
            (4, 0x00, 0x00, false),
            (4, 0x40, 0x00, false),
            (4, 0x20, 0x00, true),
            (4, 0x00, 0x01, true),
            (4, 0x1F, 0x00, true),
            (4, 0x80, 0x00, false),
            (6, 44, 0, true),
            (6, 17, 44, false),
            (5, 0x20, 44, false),
        ] {
            let mut packet = vec![0; 40];
            (packet[0], packet[6], packet[7]) = (version << 4 | 5, at_6, at_7);
            assert_eq!(is_fragment(LinkType::Raw, &packet), expected, "{version} {at_6:#x} {at_7}");
            assert!(!is_fragment(LinkType::Raw, &packet[..6]), "too short");
        }
        assert!(!is_fragment(LinkType::Raw, &[]));
    }

    #[test]
    fn a_mapped_source_becomes_an_ipv4_address() {
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
        let frame = built(PacketBuilder::ipv6(mapped, [2; 16], 64).udp(4000, 62201));
        let segment = Segment::read(LinkType::Raw, &frame).unwrap();
        assert_eq!(segment.source.to_string(), "10.0.0.1:4000");
    }

    #[test]
    fn every_truncated_frame_is_rejected() {
        let vlan = etherparse::VlanId::try_new(5).unwrap();
        let frame = built(ethernet().double_vlan(vlan, vlan).ipv4([1; 4], [2; 4], 64).udp(4000, 62201));
        for length in 0..frame.len() {
            assert_eq!(Segment::read(LinkType::Ethernet, &frame[..length]), None, "{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for link in [LinkType::Ethernet, LinkType::LinuxCooked, LinkType::LinuxCooked2, LinkType::Raw, LinkType::Loopback] {
                let _ = Packet::read(link, &bytes);
            }
        }

        #[test]
        fn damaged_frames_are_parsed_as_by_an_independent_parser(at in 0_usize..62, to: u8) {
            let mut frame = built(ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201));
            let at = at % frame.len();
            frame[at] = to;
            if let Some(segment) = Segment::read(LinkType::Ethernet, &frame) {
                let oracle = etherparse::SlicedPacket::from_ethernet(&frame).expect("the oracle also accepts it");
                let Some(etherparse::TransportSlice::Udp(udp)) = oracle.transport else {
                    panic!("the oracle sees no UDP");
                };
                prop_assert_eq!(udp.payload(), segment.payload);
                prop_assert_eq!(udp.destination_port(), segment.destination.port());
            }
        }

        #[test]
        fn damaged_tcp_frames_are_parsed_as_by_an_independent_parser(at in 0_usize..54, to: u8) {
            let mut frame = Vec::new();
            let builder = ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(4000, 22, 1, 2).syn();
            builder.write(&mut frame, &[]).unwrap();
            frame[at] = to;
            let Ok(oracle) = etherparse::SlicedPacket::from_ethernet(&frame) else { return Ok(()) };
            let read = Packet::read(LinkType::Ethernet, &frame);
            if let Some(etherparse::TransportSlice::Tcp(tcp)) = oracle.transport {
                let read = read.expect("the oracle accepts it");
                let Transport::Tcp { flags } = read.transport else { panic!("no TCP: {read:?}") };
                prop_assert_eq!(read.destination.port(), tcp.destination_port());
                let theirs = [tcp.fin(), tcp.syn(), tcp.rst(), tcp.ack()];
                let ours = [TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST, TcpFlags::ACK].map(|f| flags.has(f));
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
