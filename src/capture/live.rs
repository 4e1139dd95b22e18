//! libpcap on one interface, or on all.

use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::setsockopt;
use pcap::{Active, Direction, Error, Linktype};

use super::filter;
use super::{Capture, CaptureError, Intake, Next};
use crate::packet::{Link, Segment};

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
    place: String,
    intake: Intake,
    /// What libpcap told last: its numbers of 32 bits begin anew at some time.
    told: [u32; 3],
}

impl Live {
    /// Starts capturing knocks to `port` that come in on this interface; `None` = on every one.
    ///
    /// # Errors
    /// When there is no such interface, capturing is not allowed, or the link type is not known.
    pub fn open(interface: Option<&str>, port: u16) -> Result<Self, CaptureError> {
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
        capture.filter(&filter::knocks(link, port), true).map_err(error)?;
        // Whoever takes this process over sees no other packets than we do.
        setsockopt(&capture, LockFilter, &true).map_err(|errno| CaptureError {
            place: place.clone(),
            reason: format!("its filter cannot be locked: {errno}"),
            hint: None,
        })?;
        Ok(Self { capture, link, interface: index, port, place, intake: Intake::default(), told: [0; 3] })
    }
}

impl Capture for Live {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }

    fn next(&mut self) -> Result<Next<'_>, CaptureError> {
        match self.capture.next_packet() {
            Ok(packet) => Ok(match Segment::read(self.link, packet.data) {
                // Behind extension headers the kernel's filter could not look for the port.
                Some(mut segment) if segment.destination.port() == self.port => {
                    segment.interface = segment.interface.or(self.interface);
                    Next::Datagram(segment)
                }
                _ => Next::Other,
            }),
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

    #[test]
    fn numbers_that_wrap_around_still_grow() {
        let intake = since([u32::MAX, 5, 0], [1, 5, 7]);
        assert_eq!(intake, Intake { received: 2, dropped: 0, if_dropped: 7 });
    }
}
