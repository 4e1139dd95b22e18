//! Ignores the second copy of a frame that is captured on two interfaces, such as a bridge and its port. Otherwise each
//! port of a sequence would be hit twice, and no door would open.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::packet::{Packet, TcpFlags, Transport};
use spa_knock_core::knock::Timestamp;

/// Longest time between the two copies. A network does not deliver a packet again on another interface this soon.
const APART_MAX: Duration = Duration::from_millis(20);
/// How many packets are remembered.
const REMEMBERED_MAX: usize = 64;

/// Where a packet was seen: the capture, and the interface in it.
type SeenAt = (usize, Option<u32>);

/// The most recent packets.
#[derive(Default)]
pub(in crate::legacy::watcher) struct RecentPackets(VecDeque<(Timestamp, SeenAt, PacketEndpoints)>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct PacketEndpoints {
    source: SocketAddr,
    destination: SocketAddr,
    /// `None` for UDP.
    flags: Option<TcpFlags>,
}

impl RecentPackets {
    /// Whether this packet of the capture with index `capture` has just been seen on another interface.
    pub(in crate::legacy::watcher) fn has_seen(
        &mut self,
        packet: &Packet<'_>,
        capture: usize,
        time: Timestamp,
    ) -> bool {
        let seen_at = (capture, packet.interface);
        let ends = PacketEndpoints::of(packet);
        let is_copy = |(at, other, seen): &(Timestamp, SeenAt, PacketEndpoints)| {
            *seen == ends && *other != seen_at && time.distance(*at) <= APART_MAX
        };
        if self.0.iter().any(is_copy) {
            return true;
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((time, seen_at, ends));
        false
    }
}

impl PacketEndpoints {
    const fn of(packet: &Packet<'_>) -> Self {
        let flags = match packet.transport {
            Transport::Tcp { flags } => Some(flags),
            Transport::Udp { .. } => None,
        };
        Self { source: packet.source, destination: packet.destination, flags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_on_a_bridge_and_its_port_is_one_packet() {
        let mut recent = RecentPackets::default();
        let at = |ms: u64| Timestamp::from_millis(1_795_000_000_000 + ms);
        let packet = |port, interface| Packet {
            source: ([10, 0, 0, 1], 4_000).into(),
            destination: ([10, 0, 0, 2], port).into(),
            interface: Some(interface),
            transport: Transport::Tcp { flags: TcpFlags::SYN },
        };
        for (port, interface, ms, seen) in [
            (7_000, 2, 0, false),
            (7_000, 3, 1, true),
            (8_000, 2, 2, false),
            (8_000, 3, 2, true),
            // A frame on the same interface is another packet, and so is one that arrives later.
            (7_000, 2, 3, false),
            (7_000, 3, 30, false),
        ] {
            assert_eq!(recent.has_seen(&packet(port, interface), 0, at(ms)), seen, "{port} {interface} {ms}");
        }
        assert!(recent.has_seen(&packet(7_000, 3), 1, at(31)), "two captures of named interfaces");
        for port in 1..1_000 {
            assert!(!recent.has_seen(&packet(port, 2), 0, at(40)));
        }
        assert_eq!(recent.0.len(), REMEMBERED_MAX);
    }
}
