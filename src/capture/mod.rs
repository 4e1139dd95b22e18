//! Sources of packets: libpcap, which sees them before the firewall; or, where capturing is not allowed, a UDP socket
//! or the firewall's log.

#[cfg(feature = "fwknop")]
mod fwknop;
mod kernel_log;
#[cfg(feature = "legacy")]
mod legacy;
mod pcap_file;
mod pcap_handle;
mod pcap_live;

mod filter;
mod settings;
mod socket;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

#[cfg(feature = "fwknop")]
pub use fwknop::{CapturedPorts, Payload, PayloadCapture, PayloadEvent, PayloadSocket, PayloadSource};
pub use kernel_log::{KnockRangeLog, Log, LogForm, kernel_message};
#[cfg(feature = "legacy")]
pub use legacy::LegacyCapture;
pub use pcap_file::{Frame, Trace};
pub use pcap_live::PcapLive;
pub use settings::{CaptureKind, LogSource, PacketLog};
pub use socket::Socket;

use crate::packet::{Packet, Segment};
use spa_knock_core::knock::{KnockRange, Timestamp};

/// A descriptor that a watcher's loop waits for. It is readable when there may be packets.
pub trait PollSource: AsFd {
    /// Whether packets are available although the descriptor may not be readable.
    fn has_more(&self) -> bool {
        false
    }
}

/// A source of datagrams and port hits.
pub trait Capture: PollSource {
    /// Passes up to `most` frames to `handle` without waiting. Returns how many there were; less than `most` if no more
    /// are available now.
    ///
    /// # Errors
    /// If the source is lost because the interface has disappeared or is down.
    fn read(&mut self, most: usize, handle: &mut dyn FnMut(CaptureEvent<'_>)) -> Result<usize, CaptureError>;

    /// Whether the source can buffer the packets of a flood for two milliseconds without loss.
    fn has_room(&self) -> bool;

    /// Frames captured and dropped since the source was opened, if this is known.
    fn intake(&mut self) -> Option<CaptureStats>;
}

/// A source of packets to the ports of knock sequences.
pub trait PacketSource: PollSource {
    /// Takes the next packet without waiting.
    ///
    /// # Errors
    /// If the source is lost because the interface has disappeared or is down, or the log follower has exited.
    fn take(&mut self) -> Result<PacketEvent<'_>, CaptureError>;
}

impl<T: PollSource + ?Sized> PollSource for Box<T> {
    fn has_more(&self) -> bool {
        (**self).has_more()
    }
}

/// The result of taking a packet from a [`PacketSource`].
pub enum PacketEvent<'a> {
    /// A packet and the time of its capture.
    Packet(Packet<'a>, Timestamp),
    /// A frame or line without a relevant packet.
    Other,
    /// Nothing is available now.
    Empty,
}

/// Counters of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptureStats {
    /// Frames that passed the kernel's filter, including dropped ones.
    pub received: u64,
    /// Frames that were dropped because this process was too slow.
    pub dropped: u64,
    /// Frames that the interface dropped.
    pub if_dropped: u64,
}

impl CaptureStats {
    /// The sum of the counters of two captures.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            received: self.received.saturating_add(other.received),
            dropped: self.dropped.saturating_add(other.dropped),
            if_dropped: self.if_dropped.saturating_add(other.if_dropped),
        }
    }
}

/// A frame from a [`Capture`].
pub enum CaptureEvent<'a> {
    /// A datagram.
    Datagram(Segment<'a>),
    /// A packet without a payload to a port of the knock range.
    PortHit(PortHit),
    /// A frame that contains neither.
    Other,
}

/// A packet without a payload: the first packet of a TCP connection, or an empty UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortHit {
    /// The source address and port.
    pub source: SocketAddr,
    /// The destination address.
    pub to: IpAddr,
    /// The destination port.
    pub port: u16,
}

impl PortHit {
    /// The port hit in a packet, if it is one in this knock range.
    fn of(packet: &Packet<'_>, knock_range: KnockRange) -> Option<Self> {
        let Packet { source, destination, .. } = *packet;
        let is_hit = packet.is_port_hit() && knock_range.contains(destination.port());
        is_hit.then(|| Self { source, to: destination.ip(), port: destination.port() })
    }
}

/// Packets cannot be received from a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}{}", hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
pub struct CaptureError {
    /// The interface, socket or log.
    pub place: String,
    /// The reason.
    pub reason: String,
    /// A hint on how to solve the problem.
    pub hint: Option<&'static str>,
}
