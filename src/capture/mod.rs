//! Where packets come from: libpcap, in front of the firewall; or a UDP socket, or the firewall's log, where capturing is
//! not allowed.

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

pub use kernel_log::{KnockRangeLog, Log, LogForm, kernel_said};
#[cfg(feature = "legacy")]
pub use legacy::LegacyCapture;
pub use pcap_file::{Frame, Trace};
pub use pcap_live::PcapLive;
pub use settings::{CaptureKind, LogSource, PacketLog};
pub use socket::Socket;

use crate::packet::{Packet, Segment};
use spa_knock_core::knock::{KnockRange, Timestamp};

/// What a watcher's loop waits for: readable when there may be packets.
pub trait PollSource: AsFd {
    /// Whether there is more to take than the descriptor tells.
    fn has_more(&self) -> bool {
        false
    }
}

/// A source of datagrams and port hits.
pub trait Capture: PollSource {
    /// Takes the next frame, without waiting.
    ///
    /// # Errors
    /// When the source is lost: the interface is gone or went down.
    fn next(&mut self) -> Result<CaptureEvent<'_>, CaptureError>;

    /// Whether a flood can gather here for a millisecond without loss.
    fn has_room(&self) -> bool;

    /// What it has taken and missed since it was opened, where that can be told.
    fn intake(&mut self) -> Option<CaptureStats>;
}

/// A source of packets to the ports of knock sequences.
pub trait PacketSource: PollSource {
    /// Takes the next one, without waiting.
    ///
    /// # Errors
    /// When the source is lost: the interface is gone or went down, the log is not followed any more.
    fn take(&mut self) -> Result<PacketEvent<'_>, CaptureError>;
}

impl<T: PollSource + ?Sized> PollSource for Box<T> {
    fn has_more(&self) -> bool {
        (**self).has_more()
    }
}

/// What there was of plain sequences.
pub enum PacketEvent<'a> {
    /// A packet, and when it was seen.
    Packet(Packet<'a>, Timestamp),
    /// Something else.
    Other,
    /// Nothing, for now.
    Empty,
}

/// What a capture has taken and missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptureStats {
    /// Frames that passed the kernel's filter, those that were missed too.
    pub received: u64,
    /// Frames that were missed as we were too slow.
    pub dropped: u64,
    /// Frames that the interface missed.
    pub if_dropped: u64,
}

impl CaptureStats {
    /// Both together, as of two captures.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            received: self.received.saturating_add(other.received),
            dropped: self.dropped.saturating_add(other.dropped),
            if_dropped: self.if_dropped.saturating_add(other.if_dropped),
        }
    }
}

/// What there was to take.
pub enum CaptureEvent<'a> {
    /// A datagram.
    Datagram(Segment<'a>),
    /// A packet without a payload, to a port of the knock range.
    PortHit(PortHit),
    /// A frame that holds neither.
    Other,
    /// Nothing, for now.
    Empty,
}

/// A packet that carries nothing: a TCP connection's first, or an empty UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortHit {
    /// Where it came from.
    pub source: SocketAddr,
    /// The address that it was sent to.
    pub to: IpAddr,
    /// The port that it was sent to.
    pub port: u16,
}

impl PortHit {
    /// The touch that a packet is, if it is one of this knock range.
    fn of(packet: &Packet<'_>, knock_range: KnockRange) -> Option<Self> {
        let Packet { source, destination, .. } = *packet;
        let touches = packet.is_port_hit() && knock_range.contains(destination.port());
        touches.then(|| Self { source, to: destination.ip(), port: destination.port() })
    }
}

/// Datagrams cannot be seen; says where, why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}{}", hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
pub struct CaptureError {
    /// The interface or socket.
    pub place: String,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}
