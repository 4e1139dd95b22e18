//! Frames for `spa-knockd explain`: from a capture file, or captured on an interface. The filter passes more packets
//! than the daemon's, because packets that the daemon ignores must be explained. No reply is sent.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use pcap::{Active, Error, Offline};

use super::pcap_handle::{Tap, describe, link, time};
use super::{CaptureError, filter};
use crate::packet::LinkType;
use spa_knock_core::knock::{KnockRange, Timestamp};

/// Snap length in bytes: a whole frame of any common network. Longer frames are recognized as truncated.
const SNAPLEN: i32 = 65_535;

/// A source of frames.
pub struct Trace {
    source: TraceInput,
    link: LinkType,
    place: String,
}

enum TraceInput {
    File(pcap::Capture<Offline>),
    Interface(pcap::Capture<Active>),
}

/// A captured frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The link type.
    pub link: LinkType,
    /// The capture time.
    pub time: Timestamp,
    /// The captured bytes, possibly truncated.
    pub bytes: &'a [u8],
    /// Whether the frame is truncated.
    pub cut: bool,
}

impl Trace {
    /// Reads a file in pcap or pcapng format; `-` for standard input.
    ///
    /// # Errors
    /// If it cannot be read, has another format, or its link type is unknown.
    pub fn read(file: &Path) -> Result<Self, CaptureError> {
        let place = file.display().to_string();
        let capture = pcap::Capture::from_file(file).map_err(|error| describe(&place, &error))?;
        let link = link(capture.get_datalink(), &place)?;
        Ok(Self { source: TraceInput::File(capture), link, place })
    }

    /// Captures incoming datagrams to `ports` or with a knock's length, and packets without a payload to `knock_range`,
    /// on all interfaces if `interface` is `None`.
    ///
    /// # Errors
    /// If there is no such interface, capturing is not allowed, or the link type is unknown.
    pub fn watch(
        interface: Option<&str>,
        ports: &[u16],
        knock_range: Option<KnockRange>,
    ) -> Result<Self, CaptureError> {
        let around = |link| filter::around_knocks(link, ports, knock_range);
        let Tap { capture, link, place, .. } = Tap::open(interface, SNAPLEN, around)?;
        Ok(Self { source: TraceInput::Interface(capture), link, place })
    }

    /// The next frame. `None` at the end of a file, or if none is available now.
    ///
    /// # Errors
    /// If the file is damaged here, or the interface has disappeared.
    pub fn take(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        let (link, place) = (self.link, &self.place);
        let packet = match &mut self.source {
            TraceInput::File(capture) => capture.next_packet(),
            TraceInput::Interface(capture) => capture.next_packet(),
        };
        match packet {
            Ok(packet) => {
                let cut = packet.header.caplen < packet.header.len;
                Ok(Some(Frame { link, time: time(packet.header), bytes: packet.data, cut }))
            }
            Err(Error::NoMorePackets | Error::TimeoutExpired) => Ok(None),
            Err(error) => Err(describe(place, &error)),
        }
    }

    /// A descriptor that is readable when there may be frames. `None` for a file, which never has to be waited for.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            TraceInput::File(_) => None,
            TraceInput::Interface(capture) => Some(capture.as_fd()),
        }
    }
}
