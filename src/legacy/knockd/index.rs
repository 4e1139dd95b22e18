//! Finds the doors for a packet by its port, so that the cost of a packet does not grow with the number of doors.

use std::collections::HashMap;
use std::net::IpAddr;

use super::door::{Door, DoorTarget};
use super::flags::FlagTest;
use super::matcher::LegacyPacket;
use super::sequence::SequencePort;
use spa_knock_core::knock::Protocol;

/// The ports of all doors. Packets to other ports are ignored, as by knockd's capture filter.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<SequencePort, IndexedPort>);

/// A port that occurs in a sequence. Doors are identified by their index in the config.
#[derive(Debug, Default)]
struct IndexedPort {
    /// The doors with this port in their sequence; of those with the same conditions only the first.
    conditions: Vec<u32>,
    /// The doors whose sequence begins with it, in the order of the config.
    first_of: Vec<u32>,
}

impl Index {
    /// Indexes the ports of these doors. Doors without a sequence have none.
    pub(super) fn new(doors: &[Door]) -> Self {
        let mut ports: HashMap<SequencePort, IndexedPort> = HashMap::new();
        for (door_index, door) in (0..).zip(doors) {
            let Some(sequence) = &door.sequence else { continue };
            for (stage, knock) in sequence.knocks().iter().enumerate() {
                let port = ports.entry(*knock).or_default();
                if !port
                    .conditions
                    .iter()
                    .filter_map(|other| door_at(doors, *other))
                    .any(|other| door.has_same_conditions(other))
                {
                    port.conditions.push(door_index);
                }
                if stage == 0 {
                    port.first_of.push(door_index);
                }
            }
        }
        Self(ports)
    }

    /// The doors whose sequence begins with the packet's port, in the order of the config. `None` if no door with this
    /// port accepts the packet.
    pub(super) fn find(&self, doors: &[Door], packet: &LegacyPacket, is_local: bool) -> Option<&[u32]> {
        let port = self.0.get(&packet.knock)?;
        let mut having_port = port.conditions.iter().filter_map(|door_index| door_at(doors, *door_index));
        having_port.any(|door| door.accepts(packet, is_local)).then_some(&port.first_of)
    }

    /// Number of different conditions that are tested for a port.
    #[cfg(test)]
    pub(super) fn conditions_at(&self, knock: SequencePort) -> usize {
        self.0.get(&knock).map_or(0, |port| port.conditions.len())
    }
}

impl Door {
    /// Whether flags, target and source of a packet match this door. Does not check the port.
    pub(super) fn accepts(&self, packet: &LegacyPacket, is_local: bool) -> bool {
        has_flags(self.flags, packet)
            && is_target(self.target.as_ref(), packet.destination, is_local)
            && (self.sources.is_empty() || self.sources.iter().any(|prefix| prefix.contains(packet.source)))
    }

    /// Whether both doors accept the same packets.
    fn has_same_conditions(&self, other: &Self) -> bool {
        self.flags == other.flags && self.target == other.target && self.sources == other.sources
    }
}

/// The door with this index.
pub(super) fn door_at(doors: &[Door], door_index: u32) -> Option<&Door> {
    doors.get(usize::try_from(door_index).ok()?)
}

/// Whether the packet has the required flags. Always true for UDP.
pub(super) fn has_flags(flags: FlagTest, packet: &LegacyPacket) -> bool {
    packet.knock.protocol == Protocol::Udp || flags.passes(packet.flags)
}

/// Whether a packet to `destination` matches a door with this target.
pub(super) fn is_target(target: Option<&DoorTarget>, destination: IpAddr, is_local: bool) -> bool {
    match target {
        None => is_local,
        Some(DoorTarget::Address(address)) => *address == destination,
        Some(DoorTarget::Never(_)) => false,
    }
}
