//! One frame that is seen on two interfaces, as on a bridge and on its port: it counts once. Otherwise each port of a
//! sequence comes twice, and no door opens.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::packet::{Packet, TcpFlags, Transport};
use spa_knock_core::knock::Timestamp;

/// How far apart the two may be. A network does not deliver the same packet again so soon, on another interface.
const APART_MAX: Duration = Duration::from_millis(20);
/// How many packets are compared.
const REMEMBERED_MAX: usize = 64;

/// Where a packet was seen: the capture, and the interface in it.
type SeenAt = (usize, Option<u32>);

/// The packets of the last moment.
#[derive(Default)]
pub(in crate::legacy::watcher) struct Twins(VecDeque<(Timestamp, SeenAt, PacketEndpoints)>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct PacketEndpoints {
    source: SocketAddr,
    destination: SocketAddr,
    /// Of TCP.
    flags: Option<TcpFlags>,
}

impl Twins {
    /// Whether this packet of capture `capture` has just been seen on another interface.
    pub(in crate::legacy::watcher) fn has_seen(
        &mut self,
        packet: &Packet<'_>,
        capture: usize,
        time: Timestamp,
    ) -> bool {
        let place = (capture, packet.interface);
        let ends = PacketEndpoints::of(packet);
        let is_twin = |(at, other, seen): &(Timestamp, SeenAt, PacketEndpoints)| {
            *seen == ends && *other != place && time.distance(*at) <= APART_MAX
        };
        if self.0.iter().any(is_twin) {
            return true;
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((time, place, ends));
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
    fn a_frame_on_a_bridge_and_its_port_counts_once_and_a_second_packet_again() {
        let mut twins = Twins::default();
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
            // The same interface again is another packet, and so is one that comes later.
            (7_000, 2, 3, false),
            (7_000, 3, 30, false),
        ] {
            assert_eq!(twins.has_seen(&packet(port, interface), 0, at(ms)), seen, "{port} {interface} {ms}");
        }
        assert!(twins.has_seen(&packet(7_000, 3), 1, at(31)), "two captures of named interfaces");
        for port in 1..1_000 {
            assert!(!twins.has_seen(&packet(port, 2), 0, at(40)));
        }
        assert_eq!(twins.0.len(), REMEMBERED_MAX);
    }
}
