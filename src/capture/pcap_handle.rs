//! Opens libpcap captures and describes libpcap's errors.

use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use pcap::{Active, Direction, Error, Linktype, PacketHeader};

use super::CaptureError;
use crate::packet::LinkType;
use spa_knock_core::knock::Timestamp;

/// SO_LOCK_FILTER of socket(7): the filter can no longer be changed or removed.
#[derive(Clone, Copy)]
struct LockFilter;
nix::setsockopt_impl!(
    LockFilter,
    libc::SOL_SOCKET,
    libc::SO_LOCK_FILTER,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// Snap length for knocks in bytes: longer than any knock with link, VLAN, IP and a few extension headers.
pub(super) const KNOCK: i32 = 640;
/// Size of the kernel's ring in bytes: about 2,900 frames of 640 bytes.
const RING: i32 = 2 << 20;

/// A capture on one interface or on all, with a locked kernel filter.
pub(super) struct Tap {
    pub(super) capture: pcap::Capture<Active>,
    pub(super) link: LinkType,
    pub(super) interface: Option<u32>,
    pub(super) place: String,
}

impl Tap {
    /// Starts capturing `snaplen` bytes of each incoming frame that passes the filter. `filter` builds the expression
    /// for a link type.
    pub(super) fn open(
        interface: Option<&str>,
        snaplen: i32,
        filter: impl FnOnce(LinkType) -> String,
    ) -> Result<Self, CaptureError> {
        let place = format!("interface {}", interface.unwrap_or("any"));
        let index = match interface {
            Some(name) => Some(nix::net::if_::if_nametoindex(name).map_err(|_| CaptureError {
                place: place.clone(),
                reason: "no such interface".to_owned(),
                hint: Some("list interfaces with `ip -br link`; use \"any\" for all of them"),
            })?),
            None => None,
        };
        let error = |error: Error| describe(&place, &error);
        let mut capture = pcap::Capture::from_device(interface.unwrap_or("any"))
            .map_err(error)?
            .snaplen(snaplen)
            .buffer_size(RING)
            .promisc(false)
            // Deliver each frame immediately, not when a buffer is full.
            .immediate_mode(true)
            .open()
            .map_err(error)?
            .setnonblock()
            .map_err(error)?;
        if interface.is_none() {
            // Version 2 includes the interface, which replies to link-local addresses need. Older libpcaps do not have
            // it.
            let _ = capture.set_datalink(Linktype(276));
        }
        let link = link(capture.get_datalink(), &place)?;
        // Ignore outgoing packets.
        capture.direction(Direction::In).map_err(error)?;
        capture.filter(&filter(link), true).map_err(error)?;
        // A compromised watcher must not see other packets.
        setsockopt(&capture, LockFilter, &true).map_err(|errno| CaptureError {
            place: place.clone(),
            reason: format!("cannot lock the capture filter: {errno}"),
            hint: None,
        })?;
        Ok(Self { capture, link, interface: index, place })
    }
}

/// The link type of a capture.
///
/// # Errors
/// If it is not supported.
pub(super) fn link(linktype: Linktype, place: &str) -> Result<LinkType, CaptureError> {
    LinkType::try_from(linktype.0).map_err(|unknown| CaptureError {
        place: place.to_owned(),
        reason: unknown.to_string(),
        hint: None,
    })
}

/// The capture time of a frame.
pub(super) fn time(header: &PacketHeader) -> Timestamp {
    let [seconds, micros] =
        [header.ts.tv_sec, header.ts.tv_usec].map(|part| u64::try_from(part).unwrap_or_default());
    Timestamp::default().plus(Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros)))
}

/// Converts an error of libpcap into a human-readable one.
pub(super) fn describe(place: &str, error: &Error) -> CaptureError {
    let text = match error {
        Error::PcapError(text) => text.clone(),
        other => other.to_string(),
    };
    let denied = ["permission", "not permitted", "Permission"].iter().any(|word| text.contains(word));
    CaptureError {
        place: place.to_owned(),
        reason: if denied {
            "capturing is not allowed (CAP_NET_RAW is missing)".to_owned()
        } else {
            // Some errors of libpcap begin with the name of the file.
            let reason = text.strip_prefix(place).and_then(|rest| rest.strip_prefix(": "));
            reason.map(str::to_owned).unwrap_or(text)
        },
        hint: denied.then_some("run as root, or set capture = \"udp\", which does not need CAP_NET_RAW"),
    }
}
