//! Packets → what they mean for the doors. A packet that is for no door is not there; a door's attempt goes on with
//! the right knock, fails with a wrong one, and is over when its time is.

use std::collections::HashSet;
use std::net::IpAddr;

use super::attempts::{ATTEMPTS_MAX, Attempts, DoorAttempt, Id};
use super::door::Door;
use super::index::{Index, door_at, has_flags, is_target};
use super::sequence::{KnockSequence, SequencePort};
use crate::packet::TcpFlags;
use spa_knock_core::knock::Timestamp;

/// A packet, as far as it counts. Addresses of IPv4 are IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegacyPacket {
    /// When it came, on the clock of the capture.
    pub time: Timestamp,
    /// Where from.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// Protocol and destination port.
    pub knock: SequencePort,
    /// Of no meaning for UDP.
    pub flags: TcpFlags,
}

/// What happened at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchEvent {
    /// Who knocks.
    pub source: IpAddr,
    /// The door, by its place in the config.
    pub door: usize,
    /// What it is.
    pub step: MatchStage,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchStage {
    /// So many knocks have come, from 1.
    Stage(u8),
    /// All have. Follows the last stage.
    Open,
    /// The time is over, after so many knocks.
    Timeout(u8),
}

/// All doors and all attempts at them. Keeps at most 40,960 attempts.
#[derive(Debug)]
pub struct Matcher {
    doors: Vec<Door>,
    index: Index,
    locals: HashSet<IpAddr>,
    attempts: Attempts,
    /// No attempt is over before this second.
    next_due: Option<u64>,
}

/// What a packet means for one attempt.
enum Judgement {
    /// Not there, for this door's flags.
    Ignored,
    /// One that counted already, where that does no harm.
    Duplicate,
    /// The one that it waits for.
    Right,
    /// Any other.
    Wrong,
}

impl Matcher {
    /// Doors in the order of the config. One with a one-time file waits for its sequence ([`Self::renew`]).
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

    /// The addresses of this host are these now: what a door without a target is knocked at by.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.locals = addresses.into_iter().collect();
    }

    /// The doors, by their places.
    #[must_use]
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// The door opens to this sequence from now on, or to none. Whoever was on the way through the old one is not any
    /// more.
    pub fn renew(&mut self, door: usize, sequence: Option<KnockSequence>) {
        let Some(renewed) = self.doors.get_mut(door) else { return };
        renewed.sequence = sequence;
        self.index = Index::new(&self.doors);
        let at_this_door = |attempt: &DoorAttempt| number(attempt.door) == door;
        let gone: Vec<Id> =
            self.attempts.all().filter(|(_, attempt)| at_this_door(attempt)).map(|(id, _)| id).collect();
        gone.into_iter().for_each(|id| self.attempts.remove(id));
    }

    /// When the next attempt can be over: [`Self::expire`] is to be called then.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.next_due.map(|second| Timestamp::from_millis(second.saturating_mul(1_000)))
    }

    /// Tells the attempts whose time is over. Seconds are whole, as knockd's: from the second of the first knock on,
    /// whatever its fraction.
    pub fn expire(&mut self, now: Timestamp, tell: &mut impl FnMut(MatchEvent)) {
        let now = second(now);
        if self.next_due.is_none_or(|due| now < due) {
            return;
        }
        let mut over: Vec<Id> = Vec::new();
        self.next_due = None;
        for (id, attempt) in self.attempts.all() {
            let due = self.due(attempt);
            if due <= now {
                over.push(id);
            } else {
                self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
            }
        }
        over.sort_unstable_by_key(|id| self.attempts.get(*id).map(|attempt| (attempt.started, attempt.door)));
        for id in over {
            if let Some(attempt) = self.attempts.get(id) {
                tell(event(attempt, MatchStage::Timeout(attempt.stage)));
            }
            self.attempts.remove(id);
        }
    }

    /// Takes a packet; tells first which attempts are over by now, then what the packet does.
    pub fn take(&mut self, packet: &LegacyPacket, tell: &mut impl FnMut(MatchEvent)) {
        self.expire(packet.time, tell);
        let is_local = self.locals.contains(&packet.destination);
        if self.index.find(&self.doors, packet, is_local).is_none() {
            return;
        }
        if !self.go_on(packet, is_local, tell) {
            self.begin(packet, is_local, tell);
        }
    }

    /// Judges every attempt that the packet is for. Whether there was any: then nothing new begins with it.
    fn go_on(&mut self, packet: &LegacyPacket, is_local: bool, tell: &mut impl FnMut(MatchEvent)) -> bool {
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
                Judgement::Ignored | Judgement::Duplicate => {}
                Judgement::Wrong => self.attempts.remove(id),
                Judgement::Right => self.advance(id, tell),
            }
        }
        any
    }

    fn advance(&mut self, id: Id, tell: &mut impl FnMut(MatchEvent)) {
        self.attempts.advance(id);
        let Some(attempt) = self.attempts.get(id).copied() else { return };
        tell(event(&attempt, MatchStage::Stage(attempt.stage)));
        if door_at(&self.doors, attempt.door).is_some_and(|door| length(door) <= usize::from(attempt.stage)) {
            self.attempts.remove(id);
            self.open(attempt.source(), attempt.door, tell);
        }
    }

    /// Begins an attempt at every door whose first knock this is.
    fn begin(&mut self, packet: &LegacyPacket, is_local: bool, tell: &mut impl FnMut(MatchEvent)) {
        let source = packet.source;
        let mut over_at_once = Vec::new();
        let first_of = self.index.find(&self.doors, packet, is_local).unwrap_or_default().to_owned();
        for place in first_of {
            let Some(door) = door_at(&self.doors, place).filter(|door| door.lets_in(packet, is_local)) else {
                continue;
            };
            tell(MatchEvent { source, door: number(place), step: MatchStage::Stage(1) });
            if length(door) <= 1 {
                self.open(source, place, tell);
            } else if door.sequence_timeout <= 0 {
                // No second knock can be in time.
                over_at_once.push(place);
            } else {
                let due = due(door, packet.time);
                self.attempts.start(source, place, packet.time);
                self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
            }
        }
        for place in over_at_once {
            tell(MatchEvent { source, door: number(place), step: MatchStage::Timeout(1) });
        }
    }

    fn open(&mut self, source: IpAddr, place: u32, tell: &mut impl FnMut(MatchEvent)) {
        let door = number(place);
        tell(MatchEvent { source, door, step: MatchStage::Open });
        // A one-time sequence is over at once, however long it takes to mark it.
        if door_at(&self.doors, place).is_some_and(|door| door.one_time.is_some()) {
            self.renew(door, None);
        }
    }

    fn due(&self, attempt: &DoorAttempt) -> u64 {
        door_at(&self.doors, attempt.door).map_or(0, |door| due(door, attempt.started))
    }
}

fn judge(door: &Door, stage: u8, packet: &LegacyPacket) -> Judgement {
    if !has_flags(door.flags, packet) {
        return Judgement::Ignored;
    }
    let knocks = door.sequence.as_ref().map(KnockSequence::knocks).unwrap_or_default();
    let stage = usize::from(stage);
    if knocks.get(stage) == Some(&packet.knock) {
        return Judgement::Right;
    }
    let counted = knocks.get(..stage).unwrap_or_default().contains(&packet.knock);
    if door.allow_duplicates && counted { Judgement::Duplicate } else { Judgement::Wrong }
}

fn event(attempt: &DoorAttempt, step: MatchStage) -> MatchEvent {
    MatchEvent { source: attempt.source(), door: number(attempt.door), step }
}

fn number(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn length(door: &Door) -> usize {
    door.sequence.as_ref().map_or(0, |sequence| sequence.knocks().len())
}

/// The second in which an attempt is over.
fn due(door: &Door, started: Timestamp) -> u64 {
    second(started).saturating_add(u64::try_from(door.sequence_timeout).unwrap_or(0))
}

const fn second(time: Timestamp) -> u64 {
    time.as_millis() / 1_000
}

#[cfg(test)]
mod tests;
