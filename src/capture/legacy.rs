//! Captures packets with any payload to the ports of knock sequences.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use pcap::Error;

use super::pcap_handle::{KNOCK, Tap, describe, time};
use super::{CaptureError, PacketEvent, PacketSource, PollSource, filter};
use crate::packet::Packet;
use spa_knock_core::knock::Protocol;

/// A running capture on one interface, or on all.
pub struct LegacyCapture(Tap);

impl LegacyCapture {
    /// Starts capturing incoming packets to these ports, on all interfaces if `interface` is `None`.
    ///
    /// # Errors
    /// If there is no such interface, capturing is not allowed, or the link type is unknown.
    pub fn open(
        interface: Option<&str>,
        ports: impl Iterator<Item = (Protocol, u16)>,
    ) -> Result<Self, CaptureError> {
        let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
        for (protocol, port) in ports {
            match protocol {
                Protocol::Tcp => tcp.insert(port),
                Protocol::Udp => udp.insert(port),
            };
        }
        Tap::open(interface, KNOCK, |link| filter::ports(link, &tcp, &udp)).map(Self)
    }
}

impl PollSource for LegacyCapture {}

impl PacketSource for LegacyCapture {
    fn take(&mut self) -> Result<PacketEvent<'_>, CaptureError> {
        let Tap { capture, link, place, .. } = &mut self.0;
        match capture.next_packet() {
            Ok(frame) => {
                let captured = time(frame.header);
                Ok(Packet::read(*link, frame.data)
                    .map_or(PacketEvent::Other, |packet| PacketEvent::Packet(packet, captured)))
            }
            Err(Error::TimeoutExpired) => Ok(PacketEvent::Empty),
            Err(error) => Err(describe(place, &error)),
        }
    }
}

impl AsFd for LegacyCapture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.capture.as_fd()
    }
}
