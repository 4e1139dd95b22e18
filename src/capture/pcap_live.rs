//! Captures knocks with libpcap, on one interface or on all.

use std::os::fd::{AsFd, BorrowedFd};

use pcap::Active;

use super::pcap_handle::{KNOCK, Tap, describe};
use super::{Capture, CaptureError, CaptureEvent, CaptureStats, PollSource, PortHit, filter};
use crate::packet::{LinkType, Packet, Segment, Transport};
use spa_knock_core::knock::KnockRange;

/// A running capture.
pub struct PcapLive {
    capture: pcap::Capture<Active>,
    link: LinkType,
    interface: Option<u32>,
    port: u16,
    knock_range: Option<KnockRange>,
    place: String,
    intake: CaptureStats,
    /// The last counters of libpcap, which wrap around at 32 bits.
    last: [u32; 3],
}

impl PcapLive {
    /// Starts capturing incoming knocks to `port` and packets without a payload to `knock_range`, on all interfaces if
    /// `interface` is `None`.
    ///
    /// # Errors
    /// If there is no such interface, capturing is not allowed, or the link type is unknown.
    pub fn open(
        interface: Option<&str>,
        port: u16,
        knock_range: Option<KnockRange>,
    ) -> Result<Self, CaptureError> {
        let Tap { capture, link, interface, place } =
            Tap::open(interface, KNOCK, |link| filter::knocks(link, port, knock_range))?;
        Ok(Self {
            capture,
            link,
            interface,
            port,
            knock_range,
            place,
            intake: CaptureStats::default(),
            last: [0; 3],
        })
    }
}

impl AsFd for PcapLive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }
}

impl PollSource for PcapLive {}

impl Capture for PcapLive {
    fn read(&mut self, most: usize, handle: &mut dyn FnMut(CaptureEvent<'_>)) -> Result<usize, CaptureError> {
        let Self { capture, link, interface, port, knock_range, place, .. } = self;
        // In the kernel's ring: libpcap would copy a frame that it returns.
        let taken = capture.dispatch(Some(most), |frame| {
            let packet = Packet::read(*link, frame.data);
            handle(
                packet
                    .map_or(CaptureEvent::Other, |packet| classify(packet, *port, *knock_range, *interface)),
            );
        });
        taken.map_err(|error| describe(place, &error))
    }

    fn has_room(&self) -> bool {
        // The kernel collects frames in the ring.
        true
    }

    fn intake(&mut self) -> Option<CaptureStats> {
        // If the interface has disappeared, keep the previous numbers.
        if let Ok(stats) = self.capture.stats() {
            let now = [stats.received, stats.dropped, stats.if_dropped];
            self.intake = self.intake.plus(since(self.last, now));
            self.last = now;
        }
        Some(self.intake)
    }
}

/// Classifies a packet. The kernel's filter has checked most of this already, except after extension headers.
fn classify(
    packet: Packet<'_>,
    port: u16,
    knock_range: Option<KnockRange>,
    interface: Option<u32>,
) -> CaptureEvent<'_> {
    if let Some(hit) = knock_range.and_then(|knock_range| PortHit::of(&packet, knock_range)) {
        return CaptureEvent::PortHit(hit);
    }
    let Packet { source, destination, .. } = packet;
    match packet.transport {
        Transport::Udp { payload: Some(payload) } if destination.port() == port => {
            let interface = packet.interface.or(interface);
            CaptureEvent::Datagram(Segment { source, destination, interface, payload })
        }
        _ => CaptureEvent::Other,
    }
}

/// The difference between two readings of counters that wrap around.
fn since(before: [u32; 3], now: [u32; 3]) -> CaptureStats {
    let [b_received, b_dropped, b_if_dropped] = before;
    let [received, dropped, if_dropped] = now;
    CaptureStats {
        received: received.wrapping_sub(b_received).into(),
        dropped: dropped.wrapping_sub(b_dropped).into(),
        if_dropped: if_dropped.wrapping_sub(b_if_dropped).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::TcpFlags;

    #[test]
    fn a_packet_is_a_knock_datagram_or_a_port_hit_or_neither() {
        let syn = Transport::Tcp { flags: TcpFlags::SYN };
        let tcp = |flags| Transport::Tcp { flags: TcpFlags::of(flags) };
        let udp = |payload| Transport::Udp { payload };
        let knock_range = KnockRange::USUAL;
        for (transport, port, knock_range, expected) in [
            (udp(Some(b"knock".as_slice())), 62_201, Some(knock_range), "datagram"),
            (udp(Some(b"")), 62_201, Some(knock_range), "datagram"),
            (udp(None), 62_201, Some(knock_range), "other"),
            (udp(Some(b"knock")), 62_202, Some(knock_range), "other"),
            (udp(Some(b"")), 20_480, Some(knock_range), "port hit"),
            (udp(Some(b"")), 20_480, None, "other"),
            (udp(Some(b"x")), 20_480, Some(knock_range), "other"),
            (udp(None), 20_480, Some(knock_range), "other"),
            (syn, 28_671, Some(knock_range), "port hit"),
            (syn, 28_672, Some(knock_range), "other"),
            (syn, 28_671, None, "other"),
            (syn, 62_201, Some(knock_range), "other"),
            // With PSH, URG, ECE and CWR; with ACK; with FIN; with RST; without SYN.
            (tcp(0xEA), 28_671, Some(knock_range), "port hit"),
            (tcp(0x12), 28_671, Some(knock_range), "other"),
            (tcp(0x03), 28_671, Some(knock_range), "other"),
            (tcp(0x06), 28_671, Some(knock_range), "other"),
            (tcp(0x00), 28_671, Some(knock_range), "other"),
        ] {
            let destination = ([10, 0, 0, 2], port).into();
            let packet =
                Packet { source: ([10, 0, 0, 1], 4_000).into(), destination, interface: None, transport };
            let kind = match classify(packet, 62_201, knock_range, Some(7)) {
                CaptureEvent::Datagram(segment) if segment.interface == Some(7) => "datagram",
                CaptureEvent::PortHit(hit) if (hit.to, hit.port) == (destination.ip(), port) => "port hit",
                CaptureEvent::Other => "other",
                _ => "wrong",
            };
            assert_eq!(kind, expected, "{packet:?}");
        }
    }

    #[test]
    fn counters_that_wrap_around_still_grow() {
        let intake = since([u32::MAX, 5, 0], [1, 5, 7]);
        assert_eq!(intake, CaptureStats { received: 2, dropped: 0, if_dropped: 7 });
    }
}
