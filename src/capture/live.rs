//! libpcap on one interface, or on all.

use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::setsockopt;
use pcap::{Active, Direction, Error, Linktype};

use super::filter;
use super::{Capture, CaptureError, Intake, Next, Touch};
use crate::knock::Band;
use crate::packet::{Link, Packet, Segment, Transport};

/// SO_LOCK_FILTER of socket(7): the filter can be neither changed nor taken off any more.
#[derive(Clone, Copy)]
struct LockFilter;
nix::setsockopt_impl!(
    LockFilter,
    libc::SOL_SOCKET,
    libc::SO_LOCK_FILTER,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// Longer than any knock behind link, VLAN, IP and a fair number of extension headers.
const SNAPLEN: i32 = 640;
/// Bytes of the ring that the kernel writes frames into; at 640 bytes each some 2,900 frames.
const RING: i32 = 2 << 20;

/// A running capture.
pub struct Live {
    capture: pcap::Capture<Active>,
    link: Link,
    interface: Option<u32>,
    port: u16,
    band: Option<Band>,
    place: String,
    intake: Intake,
    /// What libpcap told last: its numbers of 32 bits begin anew at some time.
    told: [u32; 3],
}

impl Live {
    /// Starts capturing knocks to `port`, and packets without a payload to `band`, that come in on this interface;
    /// `None` = on every one.
    ///
    /// # Errors
    /// When there is no such interface, capturing is not allowed, or the link type is not known.
    pub fn open(interface: Option<&str>, port: u16, band: Option<Band>) -> Result<Self, CaptureError> {
        let Tap { capture, link, interface, place } =
            Tap::open(interface, |link| filter::knocks(link, port, band))?;
        Ok(Self { capture, link, interface, port, band, place, intake: Intake::default(), told: [0; 3] })
    }
}

/// One interface, or all, with a filter in the kernel that nobody can change any more.
pub(super) struct Tap {
    pub(super) capture: pcap::Capture<Active>,
    pub(super) link: Link,
    pub(super) interface: Option<u32>,
    pub(super) place: String,
}

impl Tap {
    /// Starts capturing what comes in and passes the filter, which may depend on the link type.
    pub(super) fn open(
        interface: Option<&str>,
        filter: impl FnOnce(Link) -> String,
    ) -> Result<Self, CaptureError> {
        let place = format!("interface {}", interface.unwrap_or("any"));
        let index = match interface {
            Some(name) => Some(nix::net::if_::if_nametoindex(name).map_err(|_| CaptureError {
                place: place.clone(),
                reason: "there is no such interface".to_owned(),
                hint: Some("'ip -br link' lists them; \"any\" stands for all"),
            })?),
            None => None,
        };
        let error = |error: Error| describe(&place, &error);
        let mut capture = pcap::Capture::from_device(interface.unwrap_or("any"))
            .map_err(error)?
            .snaplen(SNAPLEN)
            .buffer_size(RING)
            .promisc(false)
            // Frames are handed over one by one as they come, not when a buffer is full.
            .immediate_mode(true)
            .open()
            .map_err(error)?
            .setnonblock()
            .map_err(error)?;
        if interface.is_none() {
            // Version 2 names the interface, which link-local answers need. Older libpcaps do without.
            let _ = capture.set_datalink(Linktype(276));
        }
        let link = Link::try_from(capture.get_datalink().0).map_err(|unknown| CaptureError {
            place: place.clone(),
            reason: unknown.to_string(),
            hint: None,
        })?;
        // What we send ourselves is no knock to us.
        capture.direction(Direction::In).map_err(error)?;
        capture.filter(&filter(link), true).map_err(error)?;
        // Whoever takes this process over sees no other packets than we do.
        setsockopt(&capture, LockFilter, &true).map_err(|errno| CaptureError {
            place: place.clone(),
            reason: format!("its filter cannot be locked: {errno}"),
            hint: None,
        })?;
        Ok(Self { capture, link, interface: index, place })
    }
}

impl Capture for Live {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }

    fn next(&mut self) -> Result<Next<'_>, CaptureError> {
        match self.capture.next_packet() {
            Ok(frame) => Ok(Packet::read(self.link, frame.data)
                .map_or(Next::Other, |packet| sort(packet, self.port, self.band, self.interface))),
            Err(Error::TimeoutExpired) => Ok(Next::Empty),
            Err(error) => Err(describe(&self.place, &error)),
        }
    }

    fn has_room(&self) -> bool {
        // The ring.
        true
    }

    fn intake(&mut self) -> Option<Intake> {
        // Of an interface that is gone, what was told before still holds.
        if let Ok(stats) = self.capture.stats() {
            let now = [stats.received, stats.dropped, stats.if_dropped];
            self.intake = self.intake.plus(since(self.told, now));
            self.told = now;
        }
        Some(self.intake)
    }
}

/// What a packet is to us. The kernel's filter has looked at most of it already, but not behind extension headers.
fn sort(packet: Packet<'_>, port: u16, band: Option<Band>, interface: Option<u32>) -> Next<'_> {
    let Packet { source, destination, .. } = packet;
    match packet.transport {
        _ if packet.is_bare() && band.is_some_and(|band| band.contains(destination.port())) => {
            Next::Touch(Touch { source, to: destination.ip(), port: destination.port() })
        }
        Transport::Udp { payload: Some(payload) } if destination.port() == port => {
            let interface = packet.interface.or(interface);
            Next::Datagram(Segment { source, destination, interface, payload })
        }
        _ => Next::Other,
    }
}

/// What came between two readings of numbers that wrap around.
fn since(before: [u32; 3], now: [u32; 3]) -> Intake {
    let [b_received, b_dropped, b_if_dropped] = before;
    let [received, dropped, if_dropped] = now;
    Intake {
        received: received.wrapping_sub(b_received).into(),
        dropped: dropped.wrapping_sub(b_dropped).into(),
        if_dropped: if_dropped.wrapping_sub(b_if_dropped).into(),
    }
}

pub(super) fn describe(place: &str, error: &Error) -> CaptureError {
    let text = match error {
        Error::PcapError(text) => text.clone(),
        other => other.to_string(),
    };
    let denied = ["permission", "not permitted", "Permission"].iter().any(|word| text.contains(word));
    CaptureError {
        place: place.to_owned(),
        reason: if denied { "capturing is not allowed (CAP_NET_RAW is missing)".to_owned() } else { text },
        hint: denied.then_some("run as root, or set capture = \"udp\", which needs no such right"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::TcpFlags;

    #[test]
    fn a_packet_is_a_datagram_to_the_knock_port_or_a_touch_of_the_band_or_nothing() {
        let syn = Transport::Tcp { flags: TcpFlags::SYN };
        let tcp = |flags| Transport::Tcp { flags: TcpFlags::of(flags) };
        let udp = |payload| Transport::Udp { payload };
        let band = Band::USUAL;
        for (transport, port, band, sorted) in [
            (udp(Some(b"knock".as_slice())), 62_201, Some(band), "datagram"),
            (udp(Some(b"")), 62_201, Some(band), "datagram"),
            (udp(None), 62_201, Some(band), "other"),
            (udp(Some(b"knock")), 62_202, Some(band), "other"),
            (udp(Some(b"")), 20_480, Some(band), "touch"),
            (udp(Some(b"")), 20_480, None, "other"),
            (udp(Some(b"x")), 20_480, Some(band), "other"),
            (udp(None), 20_480, Some(band), "other"),
            (syn, 28_671, Some(band), "touch"),
            (syn, 28_672, Some(band), "other"),
            (syn, 28_671, None, "other"),
            (syn, 62_201, Some(band), "other"),
            // With PSH, URG, ECE and CWR; with ACK; with FIN; with RST; without SYN.
            (tcp(0xEA), 28_671, Some(band), "touch"),
            (tcp(0x12), 28_671, Some(band), "other"),
            (tcp(0x03), 28_671, Some(band), "other"),
            (tcp(0x06), 28_671, Some(band), "other"),
            (tcp(0x00), 28_671, Some(band), "other"),
        ] {
            let destination = ([10, 0, 0, 2], port).into();
            let packet =
                Packet { source: ([10, 0, 0, 1], 4_000).into(), destination, interface: None, transport };
            let kind = match sort(packet, 62_201, band, Some(7)) {
                Next::Datagram(segment) if segment.interface == Some(7) => "datagram",
                Next::Touch(touch) if (touch.to, touch.port) == (destination.ip(), port) => "touch",
                Next::Other => "other",
                _ => "wrong",
            };
            assert_eq!(kind, sorted, "{packet:?}");
        }
    }

    #[test]
    fn numbers_that_wrap_around_still_grow() {
        let intake = since([u32::MAX, 5, 0], [1, 5, 7]);
        assert_eq!(intake, Intake { received: 2, dropped: 0, if_dropped: 7 });
    }
}
