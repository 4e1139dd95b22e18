//! The source of the watcher for fwknop's packets, in the form of the native watcher's.

use std::os::fd::{AsFd, BorrowedFd};

use spa_knock::capture::{
    Capture, CaptureError, CaptureEvent, CaptureStats, CapturedPorts, Payload, PayloadCapture, PayloadEvent,
    PayloadSource, PollSource,
};
use spa_knock::packet::Segment;

/// A capture as the watcher opens it, on the server's first interface.
pub(crate) struct Payloads(PayloadCapture);

impl Payloads {
    /// Captures what is sent to this port by UDP, and by TCP with requests of HTTP, too.
    pub(crate) fn open(port: u16) -> Result<Self, CaptureError> {
        let ports = CapturedPorts { udp: Some(port..=port), tcp: Some(port..=port), http: true };
        PayloadCapture::open(Some("lan0"), &ports).map(Self)
    }
}

impl AsFd for Payloads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PollSource for Payloads {}

impl Capture for Payloads {
    fn read(&mut self, most: usize, handle: &mut dyn FnMut(CaptureEvent<'_>)) -> Result<usize, CaptureError> {
        for taken in 0..most {
            handle(match self.0.take()? {
                PayloadEvent::Payload(Payload { source, destination, bytes, .. }) => {
                    CaptureEvent::Datagram(Segment { source, destination, interface: None, payload: bytes })
                }
                PayloadEvent::Other => CaptureEvent::Other,
                PayloadEvent::Empty => return Ok(taken),
            });
        }
        Ok(most)
    }

    fn has_room(&self) -> bool {
        true
    }

    fn intake(&mut self) -> Option<CaptureStats> {
        None
    }
}
