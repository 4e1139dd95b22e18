//! The replay rule: a knock is new iff its timestamp is above the floor and its id is not in the set
//! (`docs/protocol.md`). The answer depends neither on our clock nor on a changed window.

use std::collections::HashMap;
use std::time::Duration;

use crate::crypto::{Fingerprint, Nonce};
use crate::knock::Timestamp;

/// Ids kept for one key and lane; beyond it the floor rises.
const IDS_MAX: usize = 256;

/// Lanes of removed keys that are remembered one by one.
const REMOVED_MAX: usize = 1024;

/// How far back a port sequence is remembered: four steps, of which three are good at a time.
const PORTS_REACH: Duration = Duration::from_secs(120);

/// What names a knock: a datagram's nonce, the bytes that a sequence's last six ports are made from.
pub type KnockId = Nonce;

/// A knock of one key: another client's may have the same id.
pub(in crate::auth) type KnockKey = (Fingerprint, KnockId);

/// Knocks of one key that are remembered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplayDomain {
    /// Datagrams, stamped to the millisecond.
    Datagrams,
    /// Port sequences, stamped with the begin of their step.
    Ports,
    /// One-time passwords, stamped with the begin of their step; the key is the seed that they come from.
    Codes,
}

impl ReplayDomain {
    /// How far under the greatest timestamp the floor is.
    fn reach(self, window: Duration) -> Duration {
        match self {
            Self::Datagrams => window.saturating_mul(2),
            Self::Ports => PORTS_REACH,
            // What is shown before one that was accepted is good for nothing any more.
            Self::Codes => Duration::ZERO,
        }
    }
}

/// All keys' memories.
#[derive(Debug, Clone)]
pub struct ReplayMemory {
    lanes: HashMap<(Fingerprint, ReplayDomain), Memory>,
    /// What a key starts from that has no memory: at least as high as any memory that was dropped.
    floor: Timestamp,
    /// The same for one-time passwords. At a first start there is none: a code that is shown now has not been used.
    codes_floor: Timestamp,
}

/// One accepted knock, as it must be on record before anything happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// Whose it is.
    pub key: Fingerprint,
    /// In which lane.
    pub domain: ReplayDomain,
    /// When it was stamped.
    pub timestamp: Timestamp,
    /// Its id.
    pub id: KnockId,
    /// The lane's floor after it; never falls.
    pub floor: Timestamp,
}

/// The knock has been accepted before, or could have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlreadyAccepted;

impl ReplayMemory {
    /// An empty memory in which nothing stamped at or before `floor` is new.
    #[must_use]
    pub fn new(floor: Timestamp) -> Self {
        Self { lanes: HashMap::new(), floor, codes_floor: Timestamp::default() }
    }

    /// Whether a knock is new. Changes nothing.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(
        &self,
        key: Fingerprint,
        domain: ReplayDomain,
        timestamp: Timestamp,
        id: &KnockId,
    ) -> Result<(), AlreadyAccepted> {
        let floor = self.lanes.get(&(key, domain)).map_or(self.start(domain), |memory| memory.floor);
        if timestamp > floor && !self.knows(key, domain, id) { Ok(()) } else { Err(AlreadyAccepted) }
    }

    /// Whether this very knock is remembered. One that is not need not be new.
    #[must_use]
    pub fn knows(&self, key: Fingerprint, domain: ReplayDomain, id: &KnockId) -> bool {
        self.lanes.get(&(key, domain)).is_some_and(|memory| memory.contains(id))
    }

    /// Remembers a knock, if it is new; from then on it is not.
    ///
    /// # Errors
    /// When it is not new.
    pub fn accept(
        &mut self,
        key: Fingerprint,
        domain: ReplayDomain,
        timestamp: Timestamp,
        id: KnockId,
        window: Duration,
    ) -> Result<Acceptance, AlreadyAccepted> {
        self.check(key, domain, timestamp, &id)?;
        let memory = self.memory(key, domain);
        memory.insert(timestamp, id);
        memory.raise_floor(memory.high.minus(domain.reach(window)));
        Ok(Acceptance { key, domain, timestamp, id, floor: memory.floor })
    }

    /// Takes back what was on record, in any order.
    pub fn restore(&mut self, acceptance: &Acceptance) {
        let memory = self.memory(acceptance.key, acceptance.domain);
        if !memory.holds(acceptance.timestamp, &acceptance.id) {
            memory.insert(acceptance.timestamp, acceptance.id);
        }
        memory.raise_floor(acceptance.floor);
    }

    /// Takes back a key's floor in a lane, and the greatest timestamp that was accepted there.
    pub fn restore_floor(
        &mut self,
        key: Fingerprint,
        domain: ReplayDomain,
        floor: Timestamp,
        high: Timestamp,
    ) {
        let memory = self.memory(key, domain);
        memory.high = memory.high.max(high);
        memory.raise_floor(floor);
    }

    /// Raises every floor, also that of keys to come, to at least this.
    pub fn raise_floors(&mut self, to: Timestamp) {
        self.floor = self.floor.max(to);
        self.codes_floor = self.codes_floor.max(to);
        self.lanes.values_mut().for_each(|memory| memory.raise_floor(to));
    }

    /// Takes back what the lanes start from that have no memory.
    pub fn restore_start(&mut self, floor: Timestamp, codes: Timestamp) {
        self.floor = self.floor.max(floor);
        self.codes_floor = self.codes_floor.max(codes);
    }

    /// What a key starts from that has no memory.
    #[must_use]
    pub const fn floor(&self) -> Timestamp {
        self.floor
    }

    /// What one-time passwords start from whose seed has no memory.
    #[must_use]
    pub const fn codes_floor(&self) -> Timestamp {
        self.codes_floor
    }

    /// Each key's floor in each lane, and the greatest timestamp that was accepted there.
    pub fn floors(&self) -> impl Iterator<Item = (Fingerprint, ReplayDomain, Timestamp, Timestamp)> {
        self.lanes.iter().map(|(&(key, domain), memory)| (key, domain, memory.floor, memory.high))
    }

    /// All that is remembered of single knocks.
    pub fn acceptances(&self) -> impl Iterator<Item = Acceptance> {
        self.lanes.iter().flat_map(|(&(key, domain), memory)| {
            let floor = memory.floor;
            memory.ids.iter().map(move |&(timestamp, id)| Acceptance { key, domain, timestamp, id, floor })
        })
    }

    /// Whether nothing is remembered of any key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The greatest floor of keys that have no memory, and of those that do: nothing stamped at or before it is accepted
    /// of every key.
    #[must_use]
    pub fn highest_floor(&self) -> Timestamp {
        let floors = self.lanes.values().map(|memory| memory.floor);
        floors.fold(self.floor.max(self.codes_floor), Timestamp::max)
    }

    /// The greatest of all floors and accepted timestamps.
    #[must_use]
    pub fn highest(&self) -> Timestamp {
        self.lanes
            .values()
            .map(|memory| memory.high.max(memory.floor))
            .fold(self.floor.max(self.codes_floor), Timestamp::max)
    }

    fn memory(&mut self, key: Fingerprint, domain: ReplayDomain) -> &mut Memory {
        let floor = self.start(domain);
        self.lanes.entry((key, domain)).or_insert_with(|| Memory::new(floor))
    }

    const fn start(&self, domain: ReplayDomain) -> Timestamp {
        match domain {
            ReplayDomain::Datagrams | ReplayDomain::Ports => self.floor,
            ReplayDomain::Codes => self.codes_floor,
        }
    }

    /// Removes all keys but these. What they had accepted stays refused when they return: of each lane its greatest
    /// timestamp is kept as its floor. Beyond `REMOVED_MAX` lanes those with the lowest raise the common floor instead.
    pub fn keep_only(&mut self, keep: impl Fn(Fingerprint) -> bool) {
        let starts = [ReplayDomain::Datagrams, ReplayDomain::Ports, ReplayDomain::Codes]
            .map(|domain| (domain, self.start(domain)));
        let mut removed = Vec::new();
        self.lanes.retain(|&(key, domain), memory| {
            if keep(key) {
                return true;
            }
            memory.raise_floor(memory.high);
            // At or below the common floor there is nothing to remember.
            let remembered = starts.iter().any(|&(of, start)| of == domain && memory.high > start);
            if remembered {
                removed.push((memory.high, key, domain));
            }
            remembered
        });
        removed.sort();
        let too_many = removed.len().saturating_sub(REMOVED_MAX);
        for (high, key, domain) in removed.into_iter().take(too_many) {
            let start = if domain == ReplayDomain::Codes { &mut self.codes_floor } else { &mut self.floor };
            *start = high.max(*start);
            self.lanes.remove(&(key, domain));
        }
    }
}

/// One key's memory in a lane.
#[derive(Debug, Clone)]
struct Memory {
    floor: Timestamp,
    high: Timestamp,
    /// Ids accepted with a timestamp above the floor, in order of their timestamps.
    ids: Vec<(Timestamp, KnockId)>,
}

impl Memory {
    const fn new(floor: Timestamp) -> Self {
        Self { floor, high: floor, ids: Vec::new() }
    }

    fn contains(&self, id: &KnockId) -> bool {
        self.ids.iter().any(|(_, known)| known == id)
    }

    /// Whether this very knock is remembered: a client that repeats its nonces has several with one id.
    fn holds(&self, timestamp: Timestamp, id: &KnockId) -> bool {
        let from = self.ids.partition_point(|(known, _)| *known < timestamp);
        self.ids.iter().skip(from).take_while(|(known, _)| *known == timestamp).any(|(_, known)| known == id)
    }

    fn insert(&mut self, timestamp: Timestamp, id: KnockId) {
        let at = self.ids.partition_point(|(known, _)| *known <= timestamp);
        self.ids.insert(at, (timestamp, id));
        self.high = self.high.max(timestamp);
        while self.ids.len() > IDS_MAX {
            let lowest = self.ids.first().map_or(self.floor, |(lowest, _)| *lowest);
            self.raise_floor(lowest);
        }
    }

    fn raise_floor(&mut self, to: Timestamp) {
        self.floor = self.floor.max(to);
        self.high = self.high.max(self.floor);
        let gone = self.ids.partition_point(|(timestamp, _)| *timestamp <= self.floor);
        self.ids.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: Fingerprint = Fingerprint::from_bytes([1; 8]);
    const LANE: ReplayDomain = ReplayDomain::Datagrams;
    const WINDOW: Duration = Duration::from_secs(30);

    fn id(n: u32) -> KnockId {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&n.to_be_bytes());
        id
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn the_first_of_two_equal_knocks_is_new_and_late_ones_within_the_window_are_too() {
        let mut memory = ReplayMemory::new(at(0));
        assert!(memory.accept(KEY, LANE, at(100_000), id(1), WINDOW).is_ok());
        assert_eq!(memory.accept(KEY, LANE, at(100_000), id(1), WINDOW), Err(AlreadyAccepted));
        assert_eq!(
            memory.accept(KEY, LANE, at(100_001), id(1), WINDOW),
            Err(AlreadyAccepted),
            "another time, the same id"
        );
        assert!(memory.accept(KEY, LANE, at(40_001), id(2), WINDOW).is_ok(), "just above the floor");
        assert_eq!(memory.accept(KEY, LANE, at(40_000), id(3), WINDOW), Err(AlreadyAccepted), "at the floor");
    }

    #[test]
    fn what_a_removed_key_had_accepted_stays_refused_when_it_returns() {
        let mut memory = ReplayMemory::new(at(0));
        memory.accept(KEY, LANE, at(100_000), id(1), WINDOW).unwrap();
        memory.keep_only(|_| false);
        assert_eq!(memory.check(KEY, LANE, at(100_000), &id(2)), Err(AlreadyAccepted));
        assert_eq!(memory.check(KEY, LANE, at(100_001), &id(2)), Ok(()));
    }

    #[test]
    fn each_lane_of_a_key_has_a_memory_of_its_own_and_sequences_are_remembered_for_two_minutes() {
        let mut memory = ReplayMemory::new(at(0));
        assert!(memory.accept(KEY, ReplayDomain::Datagrams, at(900_000), id(1), WINDOW).is_ok());
        assert!(memory.accept(KEY, ReplayDomain::Ports, at(600_000), id(1), WINDOW).is_ok());
        assert!(
            memory.knows(KEY, ReplayDomain::Ports, &id(1)) && !memory.knows(KEY, ReplayDomain::Ports, &id(2))
        );
        assert_eq!(
            memory.check(KEY, ReplayDomain::Ports, at(480_000), &id(2)),
            Err(AlreadyAccepted),
            "at the floor"
        );
        assert_eq!(memory.check(KEY, ReplayDomain::Ports, at(480_001), &id(2)), Ok(()));
        memory.keep_only(|_| false);
        assert_eq!(memory.check(KEY, ReplayDomain::Datagrams, at(900_000), &id(2)), Err(AlreadyAccepted));
        assert_eq!(memory.check(KEY, ReplayDomain::Ports, at(600_000), &id(2)), Err(AlreadyAccepted));
        assert_eq!(
            memory.check(KEY, ReplayDomain::Ports, at(600_001), &id(2)),
            Ok(()),
            "each lane has its own"
        );
    }

    #[test]
    fn a_removed_key_whose_knock_was_stamped_ahead_keeps_no_other_key_out() {
        let mut memory = ReplayMemory::new(at(0));
        let fresh = Fingerprint::from_bytes([2; 8]);
        memory.accept(KEY, LANE, at(700_000), id(1), WINDOW).unwrap();
        memory.keep_only(|key| key != KEY);
        assert_eq!(memory.check(fresh, LANE, at(100_001), &id(1)), Ok(()), "a key without memory");
        assert_eq!(memory.check(KEY, LANE, at(700_000), &id(2)), Err(AlreadyAccepted), "the removed key");
        assert_eq!((memory.floor(), memory.acceptances().count()), (at(0), 0));
    }

    #[test]
    fn of_too_many_removed_keys_those_with_the_lowest_timestamps_raise_the_common_floor() {
        let mut memory = ReplayMemory::new(at(0));
        let key = |n: u64| Fingerprint::from_bytes(n.to_be_bytes());
        let count = u64::try_from(REMOVED_MAX).unwrap();
        for n in 1..=count + 2 {
            memory.accept(key(n), LANE, at(n * 1_000), id(1), WINDOW).unwrap();
        }
        memory.keep_only(|_| false);
        assert_eq!(memory.floor(), at(2_000));
        for n in 1..=count + 2 {
            assert_eq!(memory.check(key(n), LANE, at(n * 1_000), &id(2)), Err(AlreadyAccepted), "{n}");
        }
        assert_eq!(memory.floors().count(), REMOVED_MAX);
    }

    #[test]
    fn of_two_knocks_with_one_id_both_are_taken_back() {
        let accepted = |timestamp, floor| Acceptance {
            key: KEY,
            domain: LANE,
            timestamp: at(timestamp),
            id: id(1),
            floor: at(floor),
        };
        let mut memory = ReplayMemory::new(at(0));
        memory.restore(&accepted(50_000, 0));
        memory.restore(&Acceptance { id: id(2), ..accepted(90_000, 0) });
        memory.restore(&accepted(60_000, 0));
        memory.raise_floors(at(55_000));
        assert_eq!(
            memory.check(KEY, LANE, at(60_000), &id(1)),
            Err(AlreadyAccepted),
            "the later one is still remembered"
        );
        assert_eq!(memory.check(KEY, LANE, at(60_001), &id(3)), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Whatever the order and the clocks: nothing is accepted twice, and the rule as it is written, kept
        /// with the whole history and no cleverness, says the same.
        #[test]
        fn the_memory_agrees_with_the_rule_as_written(
            knocks in proptest::collection::vec((0_u32..600, 0_u64..200_000), 1..1_500),
        ) {
            let mut memory = ReplayMemory::new(at(0));
            let mut accepted = HashSet::new();
            let (mut floor, mut high, mut set) = (0_u64, 0_u64, Vec::<(u64, u32)>::new());
            for (n, timestamp) in knocks {
                let new = timestamp > floor && !set.iter().any(|&(_, known)| known == n);
                if new {
                    set.push((timestamp, n));
                    high = high.max(timestamp);
                    floor = floor.max(high.saturating_sub(60_000));
                    set.retain(|&(known, _)| known > floor);
                    while set.len() > IDS_MAX {
                        floor = set.iter().map(|&(known, _)| known).min().unwrap();
                        set.retain(|&(known, _)| known > floor);
                    }
                }
                let verdict = memory.accept(KEY, LANE, at(timestamp), id(n), WINDOW);
                prop_assert_eq!(verdict.is_ok(), new);
                if new {
                    prop_assert!(accepted.insert((n, timestamp)), "accepted twice");
                }
                let kept = memory.lanes.get(&(KEY, LANE)).map_or(0, |domain| domain.ids.len());
                prop_assert!(kept <= IDS_MAX);
            }
        }
    }
}
