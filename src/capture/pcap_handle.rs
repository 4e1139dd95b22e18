//! How libpcap is opened, and what it says, for all that captures.

use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use pcap::{Active, Direction, Error, Linktype, PacketHeader};

use super::CaptureError;
use crate::packet::LinkType;
use spa_knock_core::knock::Timestamp;

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
pub(super) const KNOCK: i32 = 640;
/// Bytes of the ring that the kernel writes frames into; with 640 bytes of each some 2,900 frames.
const RING: i32 = 2 << 20;

/// One interface, or all, with a filter in the kernel that nobody can change any more.
pub(super) struct Tap {
    pub(super) capture: pcap::Capture<Active>,
    pub(super) link: LinkType,
    pub(super) interface: Option<u32>,
    pub(super) place: String,
}

impl Tap {
    /// Starts capturing what comes in, so many bytes of each frame, and passes the filter, which may depend on the link type.
    pub(super) fn open(
        interface: Option<&str>,
        snaplen: i32,
        filter: impl FnOnce(LinkType) -> String,
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
            .snaplen(snaplen)
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
        let link = link(capture.get_datalink(), &place)?;
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

/// What a capture's frames begin with.
///
/// # Errors
/// When that cannot be read.
pub(super) fn link(linktype: Linktype, place: &str) -> Result<LinkType, CaptureError> {
    LinkType::try_from(linktype.0).map_err(|unknown| CaptureError {
        place: place.to_owned(),
        reason: unknown.to_string(),
        hint: None,
    })
}

/// When a frame was seen.
pub(super) fn time(header: &PacketHeader) -> Timestamp {
    let [seconds, micros] =
        [header.ts.tv_sec, header.ts.tv_usec].map(|part| u64::try_from(part).unwrap_or_default());
    Timestamp::default().plus(Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros)))
}

/// An error of libpcap's, for people.
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
            // libpcap begins some of its errors with the file's name.
            let reason = text.strip_prefix(place).and_then(|rest| rest.strip_prefix(": "));
            reason.map(str::to_owned).unwrap_or(text)
        },
        hint: denied.then_some("run as root, or set capture = \"udp\", which needs no such right"),
    }
}
