//! Packets to the ports of plain sequences, whatever they carry.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use pcap::Error;

use super::filter;
use super::live::{Tap, describe};
use super::{CaptureError, Packets, Seen};
use crate::knock::{Protocol, Timestamp};
use crate::packet::Packet;

/// A running capture on one interface, or on all.
pub struct Sequences(Tap);

impl Sequences {
    /// Starts capturing what comes in to these ports; `None` = on every interface.
    ///
    /// # Errors
    /// When there is no such interface, capturing is not allowed, or the link type is not known.
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
        Tap::open(interface, |link| filter::ports(link, &tcp, &udp)).map(Self)
    }
}

impl Packets for Sequences {
    fn take(&mut self) -> Result<Seen<'_>, CaptureError> {
        let Tap { capture, link, place, .. } = &mut self.0;
        match capture.next_packet() {
            Ok(frame) => {
                let time = frame.header.ts;
                let [seconds, micros] =
                    [time.tv_sec, time.tv_usec].map(|part| u64::try_from(part).unwrap_or(0));
                let ms = seconds.saturating_mul(1_000).saturating_add(micros.checked_div(1_000).unwrap_or(0));
                Ok(Packet::read(*link, frame.data)
                    .map_or(Seen::Other, |packet| Seen::Packet(packet, Timestamp::from_millis(ms))))
            }
            Err(Error::TimeoutExpired) => Ok(Seen::Empty),
            Err(error) => Err(describe(place, &error)),
        }
    }
}

impl AsFd for Sequences {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.capture.as_fd()
    }
}
