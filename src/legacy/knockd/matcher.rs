//! Matches packets against the sequences of doors. Packets that match no door are ignored. An attempt advances with the
//! expected packet, fails with a wrong one, and expires when its time is over.

use std::collections::HashSet;
use std::net::IpAddr;

use super::attempts::{ATTEMPTS_MAX, Attempts, DoorAttempt, Id};
use super::door::Door;
use super::index::{Index, door_at, has_flags, is_target};
use super::sequence::{KnockSequence, SequencePort};
use crate::packet::TcpFlags;
use spa_knock_core::knock::Timestamp;

/// The relevant parts of a packet. IPv4 addresses are not mapped to IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegacyPacket {
    /// The capture time.
    pub time: Timestamp,
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// Protocol and destination port.
    pub knock: SequencePort,
    /// The TCP flags; meaningless for UDP.
    pub flags: TcpFlags,
}

/// An event at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchEvent {
    /// The source of the packets.
    pub source: IpAddr,
    /// Index of the door in the config.
    pub door: usize,
    /// The progress of the attempt.
    pub step: MatchStage,
}

/// The progress of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchStage {
    /// Number of packets of the sequence that have arrived, from 1.
    Stage(u8),
    /// The sequence is complete. Follows the last stage.
    Open,
    /// The attempt has expired at this stage.
    Timeout(u8),
}

/// All doors, and up to 40,960 attempts.
#[derive(Debug)]
pub struct Matcher {
    doors: Vec<Door>,
    index: Index,
    locals: HashSet<IpAddr>,
    attempts: Attempts,
    /// No attempt expires before this second.
    next_due: Option<u64>,
}

/// The effect of a packet on one attempt.
enum PacketEffect {
    /// Ignored, because its flags do not match the door's.
    Ignored,
    /// Repeats an earlier packet of the sequence, which the door allows.
    Duplicate,
    /// The expected packet.
    Right,
    /// Any other packet.
    Wrong,
}

impl Matcher {
    /// Creates a matcher for the doors of a config. A door with a one-time file needs [`Self::set_sequence`].
    #[must_use]
    pub fn new(mut doors: Vec<Door>) -> Self {
        for door in doors.iter_mut().filter(|door| door.one_time.is_some()) {
            door.sequence = None;
        }
        Self {
            index: Index::new(&doors),
            doors,
            locals: HashSet::new(),
            attempts: Attempts::new(ATTEMPTS_MAX),
            next_due: None,
        }
    }

    /// Sets the addresses of this host, which are the targets of doors without `Target`.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.locals = addresses.into_iter().collect();
    }

    /// The doors, in the order of the config.
    #[must_use]
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// Replaces or removes the sequence of a door. Discards the attempts at this door.
    pub fn set_sequence(&mut self, door: usize, sequence: Option<KnockSequence>) {
        let Some(changed) = self.doors.get_mut(door) else { return };
        changed.sequence = sequence;
        self.index = Index::new(&self.doors);
        let at_this_door = |attempt: &DoorAttempt| number(attempt.door) == door;
        let discarded: Vec<Id> =
            self.attempts.all().filter(|(_, attempt)| at_this_door(attempt)).map(|(id, _)| id).collect();
        discarded.into_iter().for_each(|id| self.attempts.remove(id));
    }

    /// When [`Self::expire`] must be called, because an attempt may expire.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.next_due.map(|second| Timestamp::from_millis(second.saturating_mul(1_000)))
    }

    /// Removes expired attempts and emits their timeouts. As in knockd, times are whole seconds: the fraction of the
    /// time of the first packet is ignored.
    pub fn expire(&mut self, now: Timestamp, emit: &mut impl FnMut(MatchEvent)) {
        let now = second(now);
        if self.next_due.is_none_or(|due| now < due) {
            return;
        }
        let mut expired: Vec<Id> = Vec::new();
        self.next_due = None;
        for (id, attempt) in self.attempts.all() {
            let due = self.due(attempt);
            if due <= now {
                expired.push(id);
            } else {
                self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
            }
        }
        expired
            .sort_unstable_by_key(|id| self.attempts.get(*id).map(|attempt| (attempt.started, attempt.door)));
        for id in expired {
            if let Some(attempt) = self.attempts.get(id) {
                emit(event(attempt, MatchStage::Timeout(attempt.stage)));
            }
            self.attempts.remove(id);
        }
    }

    /// Processes a packet: emits first the timeouts of expired attempts, then the effects of the packet.
    pub fn take(&mut self, packet: &LegacyPacket, emit: &mut impl FnMut(MatchEvent)) {
        self.expire(packet.time, emit);
        let is_local = self.locals.contains(&packet.destination);
        if self.index.find(&self.doors, packet, is_local).is_none() {
            return;
        }
        if !self.advance_attempts(packet, is_local, emit) {
            self.start_attempts(packet, is_local, emit);
        }
    }

    /// Applies the packet to the attempts of its source. Returns whether there were any, in which case the packet
    /// starts no new attempt.
    fn advance_attempts(
        &mut self,
        packet: &LegacyPacket,
        is_local: bool,
        emit: &mut impl FnMut(MatchEvent),
    ) -> bool {
        let mut any = false;
        let own: Vec<Id> = self.attempts.of(packet.source).collect();
        for id in own {
            let Some(attempt) = self.attempts.get(id) else { continue };
            let Some(door) = door_at(&self.doors, attempt.door) else { continue };
            if !is_target(door.target.as_ref(), packet.destination, is_local) {
                continue;
            }
            any = true;
            match judge(door, attempt.stage, packet) {
                PacketEffect::Ignored | PacketEffect::Duplicate => {}
                PacketEffect::Wrong => self.attempts.remove(id),
                PacketEffect::Right => self.advance(id, emit),
            }
        }
        any
    }

    fn advance(&mut self, id: Id, emit: &mut impl FnMut(MatchEvent)) {
        self.attempts.advance(id);
        let Some(attempt) = self.attempts.get(id).copied() else { return };
        emit(event(&attempt, MatchStage::Stage(attempt.stage)));
        if door_at(&self.doors, attempt.door).is_some_and(|door| length(door) <= usize::from(attempt.stage)) {
            self.attempts.remove(id);
            self.open(attempt.source(), attempt.door, emit);
        }
    }

    /// Starts an attempt at every door whose sequence begins with this packet.
    fn start_attempts(&mut self, packet: &LegacyPacket, is_local: bool, emit: &mut impl FnMut(MatchEvent)) {
        let source = packet.source;
        let mut expired = Vec::new();
        let first_of = self.index.find(&self.doors, packet, is_local).unwrap_or_default().to_owned();
        for door_index in first_of {
            let Some(door) = door_at(&self.doors, door_index).filter(|door| door.accepts(packet, is_local))
            else {
                continue;
            };
            emit(MatchEvent { source, door: number(door_index), step: MatchStage::Stage(1) });
            if length(door) <= 1 {
                self.open(source, door_index, emit);
            } else if door.sequence_timeout <= 0 {
                // No second packet can arrive in time.
                expired.push(door_index);
            } else {
                let due = due(door, packet.time);
                self.attempts.start(source, door_index, packet.time);
                self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
            }
        }
        for door_index in expired {
            emit(MatchEvent { source, door: number(door_index), step: MatchStage::Timeout(1) });
        }
    }

    fn open(&mut self, source: IpAddr, door_index: u32, emit: &mut impl FnMut(MatchEvent)) {
        let door = number(door_index);
        emit(MatchEvent { source, door, step: MatchStage::Open });
        // A one-time sequence becomes invalid immediately, even if marking it in the file takes time.
        if door_at(&self.doors, door_index).is_some_and(|door| door.one_time.is_some()) {
            self.set_sequence(door, None);
        }
    }

    fn due(&self, attempt: &DoorAttempt) -> u64 {
        door_at(&self.doors, attempt.door).map_or(0, |door| due(door, attempt.started))
    }
}

fn judge(door: &Door, stage: u8, packet: &LegacyPacket) -> PacketEffect {
    if !has_flags(door.flags, packet) {
        return PacketEffect::Ignored;
    }
    let knocks = door.sequence.as_ref().map(KnockSequence::knocks).unwrap_or_default();
    let stage = usize::from(stage);
    if knocks.get(stage) == Some(&packet.knock) {
        return PacketEffect::Right;
    }
    let is_repeated = knocks.get(..stage).unwrap_or_default().contains(&packet.knock);
    if door.allow_duplicates && is_repeated { PacketEffect::Duplicate } else { PacketEffect::Wrong }
}

fn event(attempt: &DoorAttempt, step: MatchStage) -> MatchEvent {
    MatchEvent { source: attempt.source(), door: number(attempt.door), step }
}

fn number(door_index: u32) -> usize {
    usize::try_from(door_index).unwrap_or(usize::MAX)
}

fn length(door: &Door) -> usize {
    door.sequence.as_ref().map_or(0, |sequence| sequence.knocks().len())
}

/// The second in which an attempt expires.
fn due(door: &Door, started: Timestamp) -> u64 {
    second(started).saturating_add(u64::try_from(door.sequence_timeout).unwrap_or(0))
}

const fn second(time: Timestamp) -> u64 {
    time.as_millis() / 1_000
}

#[cfg(test)]
mod tests;
