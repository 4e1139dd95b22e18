//! A simple, slow matcher that follows the description of knockd's, with our fixes. Keeps attempts in a list.

use std::net::IpAddr;

use crate::legacy::knockd::{Door, DoorTarget, LegacyPacket, MatchEvent, MatchStage};
use spa_knock_core::knock::Protocol;

pub(super) struct Naive {
    doors: Vec<Door>,
    locals: Vec<IpAddr>,
    attempts: Vec<Attempt>,
}

struct Attempt {
    source: IpAddr,
    door: usize,
    stage: usize,
    start: u64,
    failed: bool,
}

impl Naive {
    pub(super) fn new(doors: Vec<Door>, locals: Vec<IpAddr>) -> Self {
        Self { doors, locals, attempts: Vec::new() }
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn take(&mut self, packet: &LegacyPacket) -> Vec<MatchEvent> {
        let mut events = self.purge(packet);
        if (0..self.doors.len()).any(|door| self.filter_accepts(door, packet)) {
            self.process(packet, &mut events);
        }
        events.extend(self.purge(packet));
        events
    }

    /// Whether the part of knockd's capture filter for this door accepts the packet.
    fn filter_accepts(&self, door: usize, packet: &LegacyPacket) -> bool {
        let has_port = self.knocks(door).contains(&packet.knock);
        has_port && self.target(door, packet) && self.flags(door, packet) && self.source(door, packet)
    }

    fn purge(&mut self, packet: &LegacyPacket) -> Vec<MatchEvent> {
        let now = packet.time.as_millis() / 1_000;
        let mut events = Vec::new();
        let doors = &self.doors;
        self.attempts.retain(|attempt| {
            let door = &doors[attempt.door];
            if attempt.failed || attempt.stage >= door.sequence.as_ref().unwrap().knocks().len() {
                return false;
            }
            let passed = now as i64 - attempt.start as i64;
            let has_expired = passed >= i64::from(door.sequence_timeout);
            if has_expired {
                let step = MatchStage::Timeout(attempt.stage as u8);
                events.push(MatchEvent { source: attempt.source, door: attempt.door, step });
            }
            !has_expired
        });
        events
    }

    fn process(&mut self, packet: &LegacyPacket, events: &mut Vec<MatchEvent>) {
        let mut collected = Vec::new();
        for (at, attempt) in self.attempts.iter().enumerate() {
            if attempt.source == packet.source && self.target(attempt.door, packet) {
                collected.push(at);
            }
        }
        for &at in &collected {
            let Attempt { door, stage, .. } = self.attempts[at];
            if !self.flags(door, packet) {
                continue;
            }
            if self.knocks(door)[stage] == packet.knock {
                self.advance(at, events);
            } else if !(self.doors[door].allow_duplicates
                && self.knocks(door)[..stage].contains(&packet.knock))
            {
                self.attempts[at].failed = true;
            }
        }
        if !collected.is_empty() {
            return;
        }
        for door in 0..self.doors.len() {
            let first = self.knocks(door)[0] == packet.knock;
            if first && self.flags(door, packet) && self.target(door, packet) && self.source(door, packet) {
                let start = packet.time.as_millis() / 1_000;
                self.attempts.push(Attempt { source: packet.source, door, stage: 0, start, failed: false });
                self.advance(self.attempts.len() - 1, events);
            }
        }
    }

    fn advance(&mut self, at: usize, events: &mut Vec<MatchEvent>) {
        let attempt = &mut self.attempts[at];
        attempt.stage += 1;
        let event = |step| MatchEvent { source: attempt.source, door: attempt.door, step };
        events.push(event(MatchStage::Stage(attempt.stage as u8)));
        if attempt.stage == self.doors[attempt.door].sequence.as_ref().unwrap().knocks().len() {
            events.push(event(MatchStage::Open));
        }
    }

    fn knocks(&self, door: usize) -> &[crate::legacy::knockd::SequencePort] {
        self.doors[door].sequence.as_ref().unwrap().knocks()
    }

    fn target(&self, door: usize, packet: &LegacyPacket) -> bool {
        match &self.doors[door].target {
            None => self.locals.contains(&packet.destination),
            Some(DoorTarget::Address(address)) => *address == packet.destination,
            Some(DoorTarget::Never(_)) => false,
        }
    }

    fn flags(&self, door: usize, packet: &LegacyPacket) -> bool {
        packet.knock.protocol == Protocol::Udp || self.doors[door].flags.passes(packet.flags)
    }

    fn source(&self, door: usize, packet: &LegacyPacket) -> bool {
        let sources = &self.doors[door].sources;
        sources.is_empty() || sources.iter().any(|prefix| prefix.contains(packet.source))
    }
}
