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
    fn read(&mut self, most: usize, handle: &mut dyn FnMut(CaptureEvent<'_>)) -> Result<usize, CaptureError> {
        for taken in 0..most {
            let arrival = self.port.try_recv(&mut self.buffer).map_err(|error| CaptureError {
                place: format!("UDP port {}", self.number),
                reason: crate::os::files::io_error_text(&error),
                hint: None,
            })?;
            let Some(arrival) = arrival else { return Ok(taken) };
            let payload = self.buffer.get(..arrival.length);
            handle(payload.map_or(CaptureEvent::Other, |payload| {
                CaptureEvent::Datagram(Segment {
                    source: arrival.source,
                    destination: SocketAddr::new(arrival.destination, self.number),
                    interface: Some(arrival.interface),
                    payload,
                })
            }));
        }
        Ok(most)
    }

    fn has_room(&self) -> bool {
        // A buffer of the usual size is full after about 200 datagrams.
        self.has_room
    }

    fn intake(&mut self) -> Option<CaptureStats> {
        None
    }
}
