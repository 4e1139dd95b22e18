//! Frames to be explained: from a capture file, or what passes an interface around the knock port. Nothing is answered,
//! and more is seen than the daemon's own captures let through: what it misses is what has to be explained.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use pcap::{Active, Error, Offline};

use super::pcap_handle::{Tap, describe, link, time};
use super::{CaptureError, filter};
use crate::packet::LinkType;
use spa_knock_core::knock::{KnockRange, Timestamp};

/// A whole frame of any usual network: that one is longer shows, too.
const SNAPLEN: i32 = 65_535;

/// Where frames come from.
pub struct Trace {
    source: TraceInput,
    link: LinkType,
    place: String,
}

enum TraceInput {
    File(pcap::Capture<Offline>),
    Interface(pcap::Capture<Active>),
}

/// A frame as it stood in the capture.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it begins with.
    pub link: LinkType,
    /// When it was seen.
    pub time: Timestamp,
    /// As much of it as was kept.
    pub bytes: &'a [u8],
    /// Whether that is not all.
    pub cut: bool,
}

impl Trace {
    /// Reads a file in the pcap or pcapng format; "-" is standard input.
    ///
    /// # Errors
    /// When it cannot be read, is none, or its link type is not known.
    pub fn read(file: &Path) -> Result<Self, CaptureError> {
        let place = file.display().to_string();
        let capture = pcap::Capture::from_file(file).map_err(|error| describe(&place, &error))?;
        let link = link(capture.get_datalink(), &place)?;
        Ok(Self { source: TraceInput::File(capture), link, place })
    }

    /// Watches what comes in on this interface, to `port` or of a knock's length, or without a payload to `knock_range`;
    /// `None` = on every one.
    ///
    /// # Errors
    /// When there is no such interface, capturing is not allowed, or the link type is not known.
    pub fn watch(
        interface: Option<&str>,
        port: u16,
        knock_range: Option<KnockRange>,
    ) -> Result<Self, CaptureError> {
        let around = |link| filter::around_knocks(link, port, knock_range);
        let Tap { capture, link, place, .. } = Tap::open(interface, SNAPLEN, around)?;
        Ok(Self { source: TraceInput::Interface(capture), link, place })
    }

    /// The next frame; none at the end of a file, or where none waits for now.
    ///
    /// # Errors
    /// When the file is broken from here on, or the interface is gone.
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

    /// Readable when there may be frames; a file has none, and need not be waited for.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            TraceInput::File(_) => None,
            TraceInput::Interface(capture) => Some(capture.as_fd()),
        }
    }
}
