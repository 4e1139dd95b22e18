//! Frames to be explained: from a capture file, or what passes an interface around the knock port. Nothing is answered,
//! and more is seen than the daemon's own captures let through: what it misses is what has to be explained.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use pcap::{Active, Direction, Error, Linktype, Offline};

use super::CaptureError;
use super::filter;
use super::live::describe;
use crate::knock::{Band, Timestamp};
use crate::packet::Link;

/// A whole frame of any usual network: that one is longer shows, too.
const SNAPLEN: i32 = 65_535;

/// Where frames come from.
pub struct Trace {
    source: Source,
    link: Link,
    place: String,
}

enum Source {
    File(pcap::Capture<Offline>),
    Interface(pcap::Capture<Active>),
}

/// A frame as it stood in the capture.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it begins with.
    pub link: Link,
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
        Ok(Self { source: Source::File(capture), link, place })
    }

    /// Watches what comes in on this interface, to `port` or of a knock's length, or without a payload to `band`;
    /// `None` = on every one.
    ///
    /// # Errors
    /// When there is no such interface, capturing is not allowed, or the link type is not known.
    pub fn watch(interface: Option<&str>, port: u16, band: Option<Band>) -> Result<Self, CaptureError> {
        let place = format!("interface {}", interface.unwrap_or("any"));
        let error = |error: Error| describe(&place, &error);
        let mut capture = pcap::Capture::from_device(interface.unwrap_or("any"))
            .map_err(error)?
            .snaplen(SNAPLEN)
            .promisc(false)
            .immediate_mode(true)
            .open()
            .map_err(error)?
            .setnonblock()
            .map_err(error)?;
        let link = link(capture.get_datalink(), &place)?;
        capture.direction(Direction::In).map_err(error)?;
        capture.filter(&filter::around_knocks(link, port, band), true).map_err(error)?;
        Ok(Self { source: Source::Interface(capture), link, place })
    }

    /// The next frame; none at the end of a file, or where none waits for now.
    ///
    /// # Errors
    /// When the file is broken from here on, or the interface is gone.
    pub fn take(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        let (link, place) = (self.link, &self.place);
        let packet = match &mut self.source {
            Source::File(capture) => capture.next_packet(),
            Source::Interface(capture) => capture.next_packet(),
        };
        match packet {
            Ok(packet) => {
                let header = packet.header;
                let seconds = u64::try_from(header.ts.tv_sec).unwrap_or_default();
                let micros = u64::try_from(header.ts.tv_usec).unwrap_or_default();
                let since = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
                let time = Timestamp::default().plus(since);
                Ok(Some(Frame { link, time, bytes: packet.data, cut: header.caplen < header.len }))
            }
            Err(Error::NoMorePackets | Error::TimeoutExpired) => Ok(None),
            Err(error) => Err(describe(place, &error)),
        }
    }

    /// Readable when there may be frames; a file has none, and need not be waited for.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::File(_) => None,
            Source::Interface(capture) => Some(capture.as_fd()),
        }
    }
}

fn link(linktype: Linktype, place: &str) -> Result<Link, CaptureError> {
    Link::try_from(linktype.0).map_err(|unknown| CaptureError {
        place: place.to_owned(),
        reason: unknown.to_string(),
        hint: None,
    })
}
