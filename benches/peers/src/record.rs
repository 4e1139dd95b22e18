//! Records what a client sends, with the kernel's time of each frame.

use std::time::{Duration, Instant};

use pcap::{Active, Capture, Direction};

use crate::frames::Packet;
use crate::lab::Lab;

/// A capture of outgoing frames in the client's namespace.
pub(crate) struct Recorder(Capture<Active>);

impl Recorder {
    /// Records frames that match `filter` on this interface of the client.
    pub(crate) fn new(lab: &Lab, interface: &str, filter: &str) -> Self {
        lab.client.enter(|| {
            let capture = Capture::from_device(interface).unwrap();
            let mut capture = capture.immediate_mode(true).snaplen(400).buffer_size(1 << 20).open().unwrap();
            // Only what is sent; a device without replies needs no direction.
            let _ = capture.direction(Direction::Out);
            capture.filter(filter, true).unwrap();
            Self(capture.setnonblock().unwrap())
        })
    }

    /// Forgets all frames so far.
    pub(crate) fn clear(&mut self) {
        while self.0.next_packet().is_ok() {}
    }

    /// The time since 1970 of the first frame that has not been read yet, if there is one within 100 ms.
    pub(crate) fn first_time(&mut self) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            if let Ok(frame) = self.0.next_packet() {
                let time = frame.header.ts;
                return Some(Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000));
            }
        }
        None
    }

    /// All packets so far that are datagrams or open a connection.
    pub(crate) fn packets(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Ok(frame) = self.0.next_packet() {
            packets.extend(Packet::read(frame.data).map(|(_, packet)| packet));
        }
        packets
    }
}
