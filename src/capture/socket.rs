//! An ordinary UDP socket on the knock port as a source of datagrams.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Capture, CaptureError, CaptureEvent, CaptureStats, PollSource};
use crate::os::net::udp::UdpPort;
use crate::packet::Segment;
use spa_knock_core::wire::DATAGRAM_MAX;

/// The socket and a buffer for one datagram. The buffer is one byte longer than the longest knock, to detect longer
/// datagrams.
pub struct Socket {
    port: UdpPort,
    number: u16,
    has_room: bool,
    buffer: [u8; DATAGRAM_MAX + 1],
}

impl Socket {
    /// Receives from this socket, which is bound to port `number`.
    #[must_use]
    pub fn new(port: UdpPort, number: u16) -> Self {
        let has_room = port.is_large();
        Self { port, number, has_room, buffer: [0; DATAGRAM_MAX + 1] }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

impl PollSource for Socket {}

impl Capture for Socket {
    fn next(&mut self) -> Result<CaptureEvent<'_>, CaptureError> {
        let arrival = self.port.try_recv(&mut self.buffer).map_err(|error| CaptureError {
            place: format!("UDP port {}", self.number),
            reason: crate::os::files::io_error_text(&error),
            hint: None,
        })?;
        let Some(arrival) = arrival else { return Ok(CaptureEvent::Empty) };
        let Some(payload) = self.buffer.get(..arrival.length) else { return Ok(CaptureEvent::Other) };
        Ok(CaptureEvent::Datagram(Segment {
            source: arrival.source,
            destination: SocketAddr::new(arrival.destination, self.number),
            interface: Some(arrival.interface),
            payload,
        }))
    }

    fn has_room(&self) -> bool {
        // A buffer of the usual size is full after about 200 datagrams.
        self.has_room
    }

    fn intake(&mut self) -> Option<CaptureStats> {
        None
    }
}
