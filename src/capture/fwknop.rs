//! Captures the payloads of UDP datagrams and TCP segments, in which fwknop's clients send their packets. The payload of a
//! segment is found here, and not in the parser of sealed knocks, which need none.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use pcap::Error;

use super::filter::behind_tags;
use super::pcap_handle::{KNOCK, Tap, describe};
use super::{CaptureError, PollSource};
use crate::os::net::udp::UdpPort;
use crate::packet::{LinkType, Network, Packet, TCP_HEADER, Transport, UDP_HEADER, skip_link};
use spa_knock_core::knock::Protocol;
use spa_knock_fwknop::{WIRE_MAX, WIRE_MIN};

/// Snap length for requests of HTTP with their headers, in bytes.
const REQUEST: i32 = 2048;

/// The ports that are captured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapturedPorts {
    /// UDP ports.
    pub udp: Option<RangeInclusive<u16>>,
    /// TCP ports.
    pub tcp: Option<RangeInclusive<u16>>,
    /// Whether segments to the TCP ports may be requests of HTTP.
    pub http: bool,
}

/// A source of payloads.
pub trait PayloadSource: PollSource {
    /// Takes the next payload without waiting.
    ///
    /// # Errors
    /// If the source is lost because the interface has disappeared or is down.
    fn take(&mut self) -> Result<PayloadEvent<'_>, CaptureError>;
}

/// The result of taking a payload from a [`PayloadSource`].
pub enum PayloadEvent<'a> {
    /// A payload.
    Payload(Payload<'a>),
    /// A frame without one.
    Other,
    /// Nothing is available now.
    Empty,
}

/// The payload of a complete datagram, or of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// The source address and port.
    pub source: SocketAddr,
    /// The destination address and port.
    pub destination: SocketAddr,
    /// UDP or TCP.
    pub protocol: Protocol,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A running capture on one interface, or on all.
pub struct PayloadCapture(Tap);

impl PayloadCapture {
    /// Starts capturing incoming packets to these ports, on all interfaces if `interface` is `None`.
    ///
    /// # Errors
    /// If there is no such interface, capturing is not allowed, or the link type is unknown.
    pub fn open(interface: Option<&str>, ports: &CapturedPorts) -> Result<Self, CaptureError> {
        let snaplen = if ports.http { REQUEST } else { KNOCK };
        let limit = (!ports.http).then_some(WIRE_MAX);
        let (udp, tcp) = (ports.udp.as_ref(), ports.tcp.as_ref());
        Tap::open(interface, snaplen, |link| payload_filter(link, udp, tcp, WIRE_MIN..=WIRE_MAX, limit))
            .map(Self)
    }
}

impl PollSource for PayloadCapture {}

impl PayloadSource for PayloadCapture {
    fn take(&mut self) -> Result<PayloadEvent<'_>, CaptureError> {
        let Tap { capture, link, place, .. } = &mut self.0;
        match capture.next_packet() {
            Ok(frame) => {
                Ok(Payload::read(*link, frame.data).map_or(PayloadEvent::Other, PayloadEvent::Payload))
            }
            Err(Error::TimeoutExpired) => Ok(PayloadEvent::Empty),
            Err(error) => Err(describe(place, &error)),
        }
    }
}

impl AsFd for PayloadCapture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.capture.as_fd()
    }
}

impl<'a> Payload<'a> {
    /// The payload in a frame; none if it is a fragment, incomplete, or neither UDP nor TCP.
    fn read(link: LinkType, frame: &'a [u8]) -> Option<Self> {
        let (network, _) = skip_link(link, frame)?;
        let network = Network::read(network)?;
        let Packet { source, destination, transport, .. } = Packet::of(&network, None)?;
        let (protocol, bytes) = match transport {
            Transport::Udp { payload } => (Protocol::Udp, payload?),
            Transport::Tcp { .. } => (Protocol::Tcp, tcp_payload(&network)?),
        };
        Some(Self { source, destination, protocol, bytes })
    }
}

/// The payload of a TCP segment; none if it is a fragment, or its header is longer than the segment.
fn tcp_payload<'a>(network: &Network<'a>) -> Option<&'a [u8]> {
    // The upper half of the byte is the header's length in units of four bytes (RFC 9293, section 3.1).
    let units = network.payload.get(12)? >> 4;
    let length = usize::from(units).checked_mul(4).filter(|&length| length >= TCP_HEADER)?;
    network.payload.get(length..).filter(|_| network.whole)
}

/// An ordinary UDP socket. The buffer is one byte longer than the longest payload, to detect longer datagrams.
pub struct PayloadSocket {
    port: UdpPort,
    number: u16,
    buffer: [u8; WIRE_MAX + 1],
}

impl PayloadSocket {
    /// Receives from this socket, which is bound to port `number`.
    #[must_use]
    pub const fn new(port: UdpPort, number: u16) -> Self {
        Self { port, number, buffer: [0; WIRE_MAX + 1] }
    }
}

impl PollSource for PayloadSocket {}

impl PayloadSource for PayloadSocket {
    fn take(&mut self) -> Result<PayloadEvent<'_>, CaptureError> {
        let arrival = self.port.try_recv(&mut self.buffer).map_err(|error| CaptureError {
            place: format!("UDP port {}", self.number),
            reason: crate::os::files::io_error_text(&error),
            hint: None,
        })?;
        let Some(arrival) = arrival else { return Ok(PayloadEvent::Empty) };
        let bytes = self.buffer.get(..arrival.length).filter(|bytes| bytes.len() <= WIRE_MAX);
        Ok(bytes.map_or(PayloadEvent::Other, |bytes| {
            PayloadEvent::Payload(Payload {
                source: arrival.source,
                destination: SocketAddr::new(arrival.destination, self.number),
                protocol: Protocol::Udp,
                bytes,
            })
        }))
    }
}

impl AsFd for PayloadSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

/// The expression for datagrams to the UDP ports whose payload has one of these lengths, and for segments to the TCP ports
/// whose payload is at least that long, and at most `limit` bytes if there is one.
fn payload_filter(
    link: LinkType,
    udp: Option<&RangeInclusive<u16>>,
    tcp: Option<&RangeInclusive<u16>>,
    lengths: RangeInclusive<usize>,
    limit: Option<usize>,
) -> String {
    let (shortest, longest) = lengths.into_inner();
    let [from, to] = [shortest, longest].map(|length| length.saturating_add(UDP_HEADER));
    let udp = udp.into_iter().flat_map(|ports| {
        let (low, high) = (ports.start(), ports.end());
        [
            format!("(ip and udp dst portrange {low}-{high} and ip[6:2] & 0x3fff = 0 and udp[4:2] >= {from} and udp[4:2] <= {to})"),
            format!("(ip6 and ip6[6] = 17 and ip6[42:2] >= {low} and ip6[42:2] <= {high} and ip6[44:2] >= {from} and ip6[44:2] <= {to})"),
        ]
    });
    let tcp = tcp.into_iter().flat_map(|ports| {
        let (low, high) = (ports.start(), ports.end());
        let fits = |payload: &str| {
            let at_most = limit.map(|limit| format!(" and {payload} <= {limit}")).unwrap_or_default();
            format!("{payload} >= {shortest}{at_most}")
        };
        // Lengths without the headers, which both have their own length in units of four bytes.
        let v4 = fits("(ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2))");
        let v6 = fits("(ip6[4:2] - ((ip6[52] & 0xf0) >> 2))");
        [
            format!("(ip and tcp dst portrange {low}-{high} and ip[6:2] & 0x3fff = 0 and {v4})"),
            format!("(ip6 and ip6[6] = 6 and ip6[42:2] >= {low} and ip6[42:2] <= {high} and {v6})"),
        ]
    });
    let terms: Vec<String> = udp.chain(tcp).collect();
    behind_tags(link, &format!("({})", terms.join(" or ")))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice};
    use pcap::{Capture, Linktype};
    use proptest::prelude::*;

    use spa_knock_core::knock::canonical;

    use super::*;
    use crate::capture::filter::tests::{LINKS, ethernet, frame};

    const BYTES: &[u8] = b"a payload";

    #[test]
    fn a_payload_is_found_in_datagrams_and_segments_of_both_ip_versions() {
        let v4 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let v6 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6([1; 16], [2; 16], 64);
        let mut frames = vec![Vec::new(); 4];
        v4().udp(4000, 62201).write(&mut frames[0], BYTES).unwrap();
        v6().udp(4000, 62201).write(&mut frames[1], BYTES).unwrap();
        v4().tcp(4000, 62201, 1, 2).ack(1).psh().write(&mut frames[2], BYTES).unwrap();
        v6().tcp(4000, 62201, 1, 2).options_raw(&[1; 8]).unwrap().write(&mut frames[3], BYTES).unwrap();
        for (number, frame) in frames.iter().enumerate() {
            let payload = Payload::read(LinkType::Ethernet, frame).unwrap();
            assert_eq!(
                (payload.bytes, payload.source.port(), payload.destination.port()),
                (BYTES, 4000, 62201)
            );
            assert_eq!(payload.protocol, if number < 2 { Protocol::Udp } else { Protocol::Tcp });
        }
        let cut = &frames[0][..frames[0].len() - 1];
        assert_eq!(Payload::read(LinkType::Ethernet, cut), None);
        for mut fragment in [frames[0].clone(), frames[2].clone()] {
            fragment[20] = 0x20;
            assert_eq!(Payload::read(LinkType::Ethernet, &fragment), None);
        }
    }

    #[test]
    fn only_payloads_of_the_right_length_pass() {
        for (link, dlt) in LINKS {
            let text = payload_filter(link, Some(&(1..=2)), Some(&(3..=4)), 140..=475, None);
            assert!(Capture::dead(Linktype(dlt)).unwrap().compile(&text, true).is_ok(), "{link:?}: {text}");
        }
        let text = payload_filter(
            LinkType::Ethernet,
            Some(&(62201..=62201)),
            Some(&(80..=81)),
            140..=475,
            Some(475),
        );
        let filter = Capture::dead(Linktype::ETHERNET).unwrap().compile(&text, true).unwrap();
        fn v4() -> PacketBuilderStep<etherparse::IpHeaders> {
            ethernet().ipv4([1; 4], [2; 4], 64)
        }
        fn v6() -> PacketBuilderStep<etherparse::IpHeaders> {
            ethernet().ipv6([1; 16], [2; 16], 64)
        }
        let segment = |builder: PacketBuilderStep<TcpHeader>, payload: usize| {
            let mut frame = Vec::new();
            builder.write(&mut frame, &vec![0; payload]).unwrap();
            frame
        };
        for (length, passes) in [(139, false), (140, true), (475, true), (476, false)] {
            assert_eq!(filter.filter(&frame(v4().udp(4000, 62201), length)), passes, "v4 UDP {length}");
            assert_eq!(filter.filter(&frame(v6().udp(4000, 62201), length)), passes, "v6 UDP {length}");
            assert!(!filter.filter(&frame(v4().udp(4000, 62202), length)));
            for builder in [|| v4().tcp(4000, 80, 1, 2), || v6().tcp(4000, 81, 1, 2)] {
                let options = builder().options_raw(&[1; 12]).unwrap();
                assert_eq!(filter.filter(&segment(builder(), length)), passes, "TCP {length}");
                assert_eq!(filter.filter(&segment(options, length)), passes, "TCP with options {length}");
            }
            assert!(!filter.filter(&segment(v4().tcp(4000, 82, 1, 2), length)));
        }
    }

    /// The payload that an independent parser finds. That one takes a length of 0 for the rest of the frame, as jumbograms
    /// of IPv6 have it, which cannot be knocks.
    fn oracle(frame: &[u8]) -> Option<(IpAddr, u16, IpAddr, u16, Protocol, Vec<u8>)> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) if ip.header().payload_length() == 0 => return None,
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        let (protocol, from, to, bytes) = match packet.transport? {
            TransportSlice::Udp(udp) if udp.length() == 0 => return None,
            TransportSlice::Udp(udp) => {
                (Protocol::Udp, udp.source_port(), udp.destination_port(), udp.payload())
            }
            TransportSlice::Tcp(tcp) => {
                (Protocol::Tcp, tcp.source_port(), tcp.destination_port(), tcp.payload())
            }
            _ => return None,
        };
        Some((canonical(source), from, canonical(destination), to, protocol, bytes.to_vec()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn payloads_of_damaged_frames_are_those_of_an_independent_parser(
            v6: bool,
            tcp: bool,
            options in 0_usize..10,
            length in 0_usize..40,
            damage in prop::collection::vec((12_usize..140, any::<u8>()), 0..3),
            cut in 0_usize..8,
        ) {
            let (bytes, options) = (vec![7; length], vec![1; options * 4]);
            let mut frame = Vec::new();
            let network = match v6 {
                false => PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
                true => PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6([1; 16], [2; 16], 64),
            };
            if tcp {
                network.tcp(4000, 80, 1, 2).options_raw(&options).unwrap().write(&mut frame, &bytes).unwrap();
            } else {
                network.udp(4000, 62201).write(&mut frame, &bytes).unwrap();
            }
            for (at, to) in damage {
                let at = at % frame.len();
                frame[at] = to;
            }
            frame.truncate(frame.len() - cut.saturating_sub(5));
            let ours = Payload::read(LinkType::Ethernet, &frame).map(|ours| {
                let (source, destination) = (ours.source, ours.destination);
                let ends = (source.ip(), source.port(), destination.ip(), destination.port());
                (ends.0, ends.1, ends.2, ends.3, ours.protocol, ours.bytes.to_vec())
            });
            prop_assert_eq!(ours, oracle(&frame));
        }

        #[test]
        fn any_bytes_can_be_parsed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxCooked, LinkType::LinuxCooked2] {
                let _ = Payload::read(link, &bytes);
            }
        }
    }
}
