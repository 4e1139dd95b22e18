//! Captures the payloads of UDP datagrams and TCP segments, in which fwknop's clients send their packets. The parser is
//! a library: unlike those of sealed knocks, these packets need TCP, and the trusted parser stays small.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap::Error;

use super::pcap_handle::{KNOCK, Tap, describe};
use super::{CaptureError, PollSource, filter};
use crate::os::net::udp::UdpPort;
use crate::packet::{LinkType, skip_link};
use spa_knock_core::knock::{Protocol, canonical};
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
        Tap::open(interface, snaplen, |link| filter::payloads(link, udp, tcp, WIRE_MIN..=WIRE_MAX, limit))
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
        let packet = SlicedPacket::from_ip(network).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        let (protocol, [from, to], bytes) = match packet.transport? {
            TransportSlice::Udp(udp) => {
                (Protocol::Udp, [udp.source_port(), udp.destination_port()], udp.payload())
            }
            TransportSlice::Tcp(tcp) => {
                (Protocol::Tcp, [tcp.source_port(), tcp.destination_port()], tcp.payload())
            }
            _ => return None,
        };
        Some(Self {
            source: SocketAddr::new(canonical(source), from),
            destination: SocketAddr::new(canonical(destination), to),
            protocol,
            bytes,
        })
    }
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

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
        let mut fragment = frames[0].clone();
        fragment[20] = 0x20;
        assert_eq!(Payload::read(LinkType::Ethernet, &fragment), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxCooked, LinkType::LinuxCooked2] {
                let _ = Payload::read(link, &bytes);
            }
        }
    }
}
