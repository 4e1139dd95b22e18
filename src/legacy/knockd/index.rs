//! Which doors a packet is for, found by its port: what a packet costs does not grow with the number of doors.

use std::collections::HashMap;
use std::net::IpAddr;

use super::door::{Door, DoorTarget};
use super::flags::FlagTest;
use super::matcher::LegacyPacket;
use super::sequence::SequencePort;
use spa_knock_core::knock::Protocol;

/// The ports of all doors. What is knocked elsewhere is not there, as for knockd's capture filter.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<SequencePort, Port>);

/// A port that some door's sequence has. Doors are named by their places in the config.
#[derive(Debug, Default)]
struct Port {
    /// The doors that have it, of those that ask the same of a packet only the first.
    gates: Vec<u32>,
    /// The doors that begin with it, in the order of the config.
    first_of: Vec<u32>,
}

impl Index {
    /// The ports of these doors; those without a sequence have none.
    pub(super) fn new(doors: &[Door]) -> Self {
        let mut ports: HashMap<SequencePort, Port> = HashMap::new();
        for (place, door) in (0..).zip(doors) {
            let Some(sequence) = &door.sequence else { continue };
            for (stage, knock) in sequence.knocks().iter().enumerate() {
                let port = ports.entry(*knock).or_default();
                if !port
                    .gates
                    .iter()
                    .filter_map(|other| door_at(doors, *other))
                    .any(|other| door.asks_like(other))
                {
                    port.gates.push(place);
                }
                if stage == 0 {
                    port.first_of.push(place);
                }
            }
        }
        Self(ports)
    }

    /// The doors that begin with the packet's port, in the order of the config; nothing if the packet is there for no
    /// door that has this port.
    pub(super) fn find(&self, doors: &[Door], packet: &LegacyPacket, is_local: bool) -> Option<&[u32]> {
        let port = self.0.get(&packet.knock)?;
        let mut gates = port.gates.iter().filter_map(|place| door_at(doors, *place));
        gates.any(|door| door.lets_in(packet, is_local)).then_some(&port.first_of)
    }

    /// How many different gates a port has.
    #[cfg(test)]
    pub(super) fn gates_at(&self, knock: SequencePort) -> usize {
        self.0.get(&knock).map_or(0, |port| port.gates.len())
    }
}

impl Door {
    /// Whether a packet to its ports is there for it.
    pub(super) fn lets_in(&self, packet: &LegacyPacket, is_local: bool) -> bool {
        has_flags(self.flags, packet)
            && is_target(self.target.as_ref(), packet.destination, is_local)
            && (self.sources.is_empty() || self.sources.iter().any(|prefix| prefix.contains(packet.source)))
    }

    /// Whether the same packets are there for both, but for their ports.
    fn asks_like(&self, other: &Self) -> bool {
        self.flags == other.flags && self.target == other.target && self.sources == other.sources
    }
}

/// The door at this place.
pub(super) fn door_at(doors: &[Door], place: u32) -> Option<&Door> {
    doors.get(usize::try_from(place).ok()?)
}

/// Whether the packet's flags are those that are asked for; a UDP packet has none to fail by.
pub(super) fn has_flags(flags: FlagTest, packet: &LegacyPacket) -> bool {
    packet.knock.protocol == Protocol::Udp || flags.passes(packet.flags)
}

/// Whether this is where knocks at a door must be sent to.
pub(super) fn is_target(target: Option<&DoorTarget>, destination: IpAddr, is_local: bool) -> bool {
    match target {
        None => is_local,
        Some(DoorTarget::Address(address)) => *address == destination,
        Some(DoorTarget::Never(_)) => false,
    }
}
