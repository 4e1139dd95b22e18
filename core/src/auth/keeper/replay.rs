//! The replay rule: a knock is new if and only if its timestamp is above the floor and its id is not in the set
//! (`docs/internals/protocol.md`). The result depends neither on the server's clock nor on a changed window.

use std::collections::HashMap;
use std::time::Duration;

use super::fido_counters::{CounterFell, FidoCounter, FidoCounters};
use super::last_sources::LastSources;
use crate::crypto::{Fingerprint, Nonce};
use crate::knock::Timestamp;

/// Maximum number of ids for one key and replay domain; beyond it, the floor rises.
const IDS_MAX: usize = 256;

/// Maximum number of memories of removed keys that are kept individually.
const REMOVED_MAX: usize = 1024;

/// How far back port sequences are remembered: four time steps, of which three are valid at a time.
const PORTS_REACH: Duration = Duration::from_secs(120);

/// Identifies a knock: the nonce of a datagram, or the bytes from which the last six ports of a sequence are derived.
pub type KnockId = Nonce;

/// Identifies a knock together with its key: another client's knock may have the same id.
pub(in crate::auth) type KnockKey = (Fingerprint, KnockId);

/// Knocks of one key that are remembered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplayDomain {
    /// Datagrams, stamped to the millisecond.
    Datagrams,
    /// Port sequences, stamped with the start of their time step.
    Ports,
    /// One-time passwords, stamped with the start of their time step; the key is the fingerprint of their seed.
    Codes,
}

impl ReplayDomain {
    /// How far the floor is below the greatest timestamp.
    fn reach(self, window: Duration) -> Duration {
        match self {
            Self::Datagrams => window.saturating_mul(2),
            Self::Ports => PORTS_REACH,
            // Codes before an accepted one are no longer valid.
            Self::Codes => Duration::ZERO,
        }
    }
}

/// The memories of all keys.
#[derive(Debug, Clone)]
pub struct ReplayMemory {
    memories: HashMap<(Fingerprint, ReplayDomain), Memory>,
    /// The floor of a key without a memory: at least as high as the timestamps in any memory that was dropped.
    floor: Timestamp,
    /// The same for one-time passwords. It is zero at the first start, because a code shown now has not been used.
    codes_floor: Timestamp,
    counters: FidoCounters,
    sources: LastSources,
}

/// One accepted knock, as it must be recorded before anything else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// The key, or the seed of a one-time password.
    pub key: Fingerprint,
    /// The replay domain.
    pub domain: ReplayDomain,
    /// The timestamp.
    pub timestamp: Timestamp,
    /// The id.
    pub id: KnockId,
    /// The floor of the replay domain after the acceptance; it never decreases.
    pub floor: Timestamp,
    /// The counter of the FIDO device that signed the knock.
    pub counter: Option<FidoCounter>,
}

/// Error: the knock has been accepted before, or could have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlreadyAccepted;

impl ReplayMemory {
    /// An empty memory in which no knock stamped at or before `floor` is new.
    #[must_use]
    pub fn new(floor: Timestamp) -> Self {
        Self {
            memories: HashMap::new(),
            floor,
            codes_floor: Timestamp::default(),
            counters: FidoCounters::default(),
            sources: LastSources::default(),
        }
    }

    /// Checks whether a knock is new, without changing the memory.
    ///
    /// # Errors
    /// If it is not new.
    pub fn check(
        &self,
        key: Fingerprint,
        domain: ReplayDomain,
        timestamp: Timestamp,
        id: &KnockId,
    ) -> Result<(), AlreadyAccepted> {
        let floor = self.memories.get(&(key, domain)).map_or(self.start(domain), |memory| memory.floor);
        if timestamp > floor && !self.knows(key, domain, id) { Ok(()) } else { Err(AlreadyAccepted) }
    }

    /// Whether this exact knock is remembered. A knock that is not remembered is not necessarily new.
    #[must_use]
    pub fn knows(&self, key: Fingerprint, domain: ReplayDomain, id: &KnockId) -> bool {
        self.memories.get(&(key, domain)).is_some_and(|memory| memory.contains(id))
    }

    /// Remembers a knock if it is new. From then on, it is not new.
    ///
    /// # Errors
    /// If it is not new.
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
        Ok(Acceptance { key, domain, timestamp, id, floor: memory.floor, counter: None })
    }

    /// Checks that the counter of a FIDO device has not fallen since the latest accepted knock.
    ///
    /// # Errors
    /// If it has.
    pub fn check_counter(
        &self,
        key: Fingerprint,
        timestamp: Timestamp,
        counter: FidoCounter,
    ) -> Result<(), CounterFell> {
        self.counters.check(key, timestamp, counter)
    }

    /// Adds the counter of a FIDO device to an acceptance, and remembers it.
    pub fn store_counter(&mut self, acceptance: &mut Acceptance, counter: FidoCounter) {
        self.restore_counter(acceptance.key, acceptance.timestamp, counter);
        acceptance.counter = Some(counter);
    }

    /// Restores the counter of the latest accepted knock of a key.
    pub fn restore_counter(&mut self, key: Fingerprint, timestamp: Timestamp, counter: FidoCounter) {
        self.counters.store(key, timestamp, counter);
    }

    /// The counter of the latest accepted knock of each key, with its timestamp.
    pub fn counters(&self) -> impl Iterator<Item = (Fingerprint, Timestamp, FidoCounter)> {
        self.counters.iter()
    }

    /// From where the last authorized knocks came. Has no effect on which knocks are new.
    #[must_use]
    pub const fn sources(&self) -> &LastSources {
        &self.sources
    }

    /// The same, to add an address.
    pub const fn sources_mut(&mut self) -> &mut LastSources {
        &mut self.sources
    }

    /// Restores a recorded acceptance. The order of calls does not matter.
    pub fn restore(&mut self, acceptance: &Acceptance) {
        let memory = self.memory(acceptance.key, acceptance.domain);
        if !memory.holds(acceptance.timestamp, &acceptance.id) {
            memory.insert(acceptance.timestamp, acceptance.id);
        }
        memory.raise_floor(acceptance.floor);
        if let Some(counter) = acceptance.counter {
            self.restore_counter(acceptance.key, acceptance.timestamp, counter);
        }
    }

    /// Restores the floor of a key in a replay domain, and the greatest timestamp accepted there.
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

    /// Raises every floor, including that of future keys, to at least this time.
    pub fn raise_floors(&mut self, to: Timestamp) {
        self.floor = self.floor.max(to);
        self.codes_floor = self.codes_floor.max(to);
        self.memories.values_mut().for_each(|memory| memory.raise_floor(to));
    }

    /// Restores the floors of keys and seeds without a memory.
    pub fn restore_start(&mut self, floor: Timestamp, codes: Timestamp) {
        self.floor = self.floor.max(floor);
        self.codes_floor = self.codes_floor.max(codes);
    }

    /// The floor of keys without a memory.
    #[must_use]
    pub const fn floor(&self) -> Timestamp {
        self.floor
    }

    /// The floor of one-time password seeds without a memory.
    #[must_use]
    pub const fn codes_floor(&self) -> Timestamp {
        self.codes_floor
    }

    /// The floor of each key in each replay domain, and the greatest timestamp accepted there.
    pub fn floors(&self) -> impl Iterator<Item = (Fingerprint, ReplayDomain, Timestamp, Timestamp)> {
        self.memories.iter().map(|(&(key, domain), memory)| (key, domain, memory.floor, memory.high))
    }

    /// All remembered knocks, without counters.
    pub fn acceptances(&self) -> impl Iterator<Item = Acceptance> {
        self.memories.iter().flat_map(|(&(key, domain), memory)| {
            let floor = memory.floor;
            let accepted =
                move |&(timestamp, id)| Acceptance { key, domain, timestamp, id, floor, counter: None };
            memory.ids.iter().map(accepted)
        })
    }

    /// Whether no key has a memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memories.is_empty()
    }

    /// The greatest of all floors, including those of keys without a memory. Only above it are the knocks of every key
    /// accepted.
    #[must_use]
    pub fn highest_floor(&self) -> Timestamp {
        let floors = self.memories.values().map(|memory| memory.floor);
        floors.fold(self.floor.max(self.codes_floor), Timestamp::max)
    }

    /// The greatest of all floors and accepted timestamps.
    #[must_use]
    pub fn highest(&self) -> Timestamp {
        self.memories
            .values()
            .map(|memory| memory.high.max(memory.floor))
            .fold(self.floor.max(self.codes_floor), Timestamp::max)
    }

    fn memory(&mut self, key: Fingerprint, domain: ReplayDomain) -> &mut Memory {
        let floor = self.start(domain);
        self.memories.entry((key, domain)).or_insert_with(|| Memory::new(floor))
    }

    const fn start(&self, domain: ReplayDomain) -> Timestamp {
        match domain {
            ReplayDomain::Datagrams | ReplayDomain::Ports => self.floor,
            ReplayDomain::Codes => self.codes_floor,
        }
    }

    /// Removes all keys except those for which `keep` is true. Knocks that a removed key had accepted stay refused if
    /// it returns: for each replay domain, its greatest timestamp is kept as its floor. Beyond `REMOVED_MAX` memories,
    /// those with the lowest timestamps raise the common floor instead.
    pub fn keep_only(&mut self, keep: impl Fn(Fingerprint) -> bool) {
        let (floor, codes_floor) = (self.floor, self.codes_floor);
        let mut removed = Vec::new();
        self.counters.keep_only(&keep);
        self.sources.keep_only(&keep);
        self.memories.retain(|&(key, domain), memory| {
            if keep(key) {
                return true;
            }
            memory.raise_floor(memory.high);
            // Nothing needs to be remembered at or below the common floor.
            let remembered = memory.high > if domain == ReplayDomain::Codes { codes_floor } else { floor };
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
            self.memories.remove(&(key, domain));
        }
    }
}

/// The memory of one key in one replay domain.
#[derive(Debug, Clone)]
struct Memory {
    floor: Timestamp,
    high: Timestamp,
    /// Ids accepted with a timestamp above the floor, sorted by timestamp.
    ids: Vec<(Timestamp, KnockId)>,
}

impl Memory {
    const fn new(floor: Timestamp) -> Self {
        Self { floor, high: floor, ids: Vec::new() }
    }

    fn contains(&self, id: &KnockId) -> bool {
        self.ids.iter().any(|(_, known)| known == id)
    }

    /// Whether this exact knock is remembered: a client that reuses nonces has several knocks with one id.
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
        let forgotten = self.ids.partition_point(|(timestamp, _)| *timestamp <= self.floor);
        self.ids.drain(..forgotten);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: Fingerprint = Fingerprint::from_bytes([1; 8]);
    const DOMAIN: ReplayDomain = ReplayDomain::Datagrams;
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
    fn the_first_of_two_equal_knocks_is_new_and_late_knocks_within_the_window_are_new() {
        let mut memory = ReplayMemory::new(at(0));
        assert!(memory.accept(KEY, DOMAIN, at(100_000), id(1), WINDOW).is_ok());
        assert_eq!(memory.accept(KEY, DOMAIN, at(100_000), id(1), WINDOW), Err(AlreadyAccepted));
        assert_eq!(
            memory.accept(KEY, DOMAIN, at(100_001), id(1), WINDOW),
            Err(AlreadyAccepted),
            "another timestamp, the same id"
        );
        assert!(memory.accept(KEY, DOMAIN, at(40_001), id(2), WINDOW).is_ok(), "just above the floor");
        assert_eq!(
            memory.accept(KEY, DOMAIN, at(40_000), id(3), WINDOW),
            Err(AlreadyAccepted),
            "at the floor"
        );
    }

    #[test]
    fn knocks_of_a_removed_key_stay_refused_after_it_is_added_again() {
        let mut memory = ReplayMemory::new(at(0));
        memory.accept(KEY, DOMAIN, at(100_000), id(1), WINDOW).unwrap();
        memory.keep_only(|_| false);
        assert_eq!(memory.check(KEY, DOMAIN, at(100_000), &id(2)), Err(AlreadyAccepted));
        assert_eq!(memory.check(KEY, DOMAIN, at(100_001), &id(2)), Ok(()));
    }

    #[test]
    fn each_replay_domain_of_a_key_has_its_own_memory_and_sequences_are_remembered_for_two_minutes() {
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
            "each replay domain has its own floor"
        );
    }

    #[test]
    fn a_removed_key_with_a_timestamp_in_the_future_does_not_lock_out_other_keys() {
        let mut memory = ReplayMemory::new(at(0));
        let fresh = Fingerprint::from_bytes([2; 8]);
        memory.accept(KEY, DOMAIN, at(700_000), id(1), WINDOW).unwrap();
        memory.keep_only(|key| key != KEY);
        assert_eq!(memory.check(fresh, DOMAIN, at(100_001), &id(1)), Ok(()), "a key without a memory");
        assert_eq!(memory.check(KEY, DOMAIN, at(700_000), &id(2)), Err(AlreadyAccepted), "the removed key");
        assert_eq!((memory.floor(), memory.acceptances().count()), (at(0), 0));
    }

    #[test]
    fn the_lowest_timestamps_of_too_many_removed_keys_raise_the_common_floor() {
        let mut memory = ReplayMemory::new(at(0));
        let key = |n: u64| Fingerprint::from_bytes(n.to_be_bytes());
        let count = u64::try_from(REMOVED_MAX).unwrap();
        for n in 1..=count + 2 {
            memory.accept(key(n), DOMAIN, at(n * 1_000), id(1), WINDOW).unwrap();
        }
        memory.keep_only(|_| false);
        assert_eq!(memory.floor(), at(2_000));
        for n in 1..=count + 2 {
            assert_eq!(memory.check(key(n), DOMAIN, at(n * 1_000), &id(2)), Err(AlreadyAccepted), "{n}");
        }
        assert_eq!(memory.floors().count(), REMOVED_MAX);
    }

    #[test]
    fn two_knocks_with_the_same_id_are_both_restored() {
        let accepted = |timestamp, floor| Acceptance {
            key: KEY,
            domain: DOMAIN,
            timestamp: at(timestamp),
            id: id(1),
            floor: at(floor),
            counter: None,
        };
        let mut memory = ReplayMemory::new(at(0));
        memory.restore(&accepted(50_000, 0));
        memory.restore(&Acceptance { id: id(2), ..accepted(90_000, 0) });
        memory.restore(&accepted(60_000, 0));
        memory.raise_floors(at(55_000));
        assert_eq!(
            memory.check(KEY, DOMAIN, at(60_000), &id(1)),
            Err(AlreadyAccepted),
            "the later one is still remembered"
        );
        assert_eq!(memory.check(KEY, DOMAIN, at(60_001), &id(3)), Ok(()));
    }

    #[test]
    fn a_restored_floor_refuses_what_it_refused_before() {
        let mut memory = ReplayMemory::new(at(10_000));
        assert!(memory.is_empty());
        memory.restore_floor(KEY, DOMAIN, at(50_000), at(70_000));
        assert!(!memory.is_empty());
        assert_eq!(memory.floors().collect::<Vec<_>>(), [(KEY, DOMAIN, at(50_000), at(70_000))]);
        assert_eq!((memory.highest_floor(), memory.highest()), (at(50_000), at(70_000)));
        assert_eq!(memory.check(KEY, DOMAIN, at(50_000), &id(1)), Err(AlreadyAccepted));
        assert_eq!(memory.check(KEY, DOMAIN, at(50_001), &id(1)), Ok(()));
        assert_eq!(memory.check(KEY, ReplayDomain::Ports, at(10_001), &id(1)), Ok(()), "another domain");
        memory.restore_floor(KEY, DOMAIN, at(20_000), at(30_000));
        let unchanged = (KEY, DOMAIN, at(50_000), at(70_000));
        assert_eq!(memory.floors().collect::<Vec<_>>(), [unchanged], "a floor never falls");
        memory.accept(KEY, DOMAIN, at(60_000), id(1), WINDOW).unwrap();
        assert_eq!(memory.floors().collect::<Vec<_>>(), [unchanged], "the greatest timestamp is higher");
    }

    #[test]
    fn raised_floors_hold_for_every_key_and_replay_domain_with_and_without_a_memory() {
        let mut memory = ReplayMemory::new(at(0));
        let other = Fingerprint::from_bytes([2; 8]);
        memory.accept(KEY, DOMAIN, at(100_000), id(1), WINDOW).unwrap();
        memory.raise_floors(at(90_000));
        memory.raise_floors(at(80_000));
        assert_eq!((memory.floor(), memory.codes_floor()), (at(90_000), at(90_000)));
        for domain in [ReplayDomain::Datagrams, ReplayDomain::Ports, ReplayDomain::Codes] {
            for key in [KEY, other] {
                assert_eq!(memory.check(key, domain, at(90_000), &id(2)), Err(AlreadyAccepted), "{domain:?}");
                assert_eq!(memory.check(key, domain, at(90_001), &id(2)), Ok(()), "{domain:?}");
            }
        }
        assert!(memory.knows(KEY, DOMAIN, &id(1)), "its knock is above the floor");
        assert_eq!((memory.highest_floor(), memory.highest()), (at(90_000), at(100_000)));
        memory.raise_floors(at(100_000));
        assert!(!memory.knows(KEY, DOMAIN, &id(1)), "the floor alone refuses it");
        assert_eq!(memory.acceptances().count(), 0);
    }

    #[test]
    fn a_restored_start_is_that_of_keys_without_a_memory_and_never_falls() {
        let mut memory = ReplayMemory::new(at(10_000));
        memory.restore_floor(KEY, DOMAIN, at(0), at(0));
        memory.restore_start(at(50_000), at(30_000));
        memory.restore_start(at(40_000), at(20_000));
        assert_eq!((memory.floor(), memory.codes_floor()), (at(50_000), at(30_000)));
        assert_eq!((memory.highest_floor(), memory.highest()), (at(50_000), at(50_000)));
        let other = Fingerprint::from_bytes([2; 8]);
        for (key, domain, floor) in [
            (KEY, ReplayDomain::Datagrams, 10_000),
            (KEY, ReplayDomain::Ports, 50_000),
            (KEY, ReplayDomain::Codes, 30_000),
            (other, ReplayDomain::Datagrams, 50_000),
        ] {
            assert_eq!(memory.check(key, domain, at(floor), &id(1)), Err(AlreadyAccepted), "{domain:?}");
            assert_eq!(memory.check(key, domain, at(floor + 1), &id(1)), Ok(()), "{domain:?}");
        }
        memory.restore_start(at(0), at(60_000));
        assert_eq!((memory.highest_floor(), memory.highest()), (at(60_000), at(60_000)));
    }

    #[test]
    fn a_removed_key_is_remembered_only_above_the_floor_of_its_replay_domain() {
        let other = Fingerprint::from_bytes([2; 8]);
        for (domain, high, remembered) in [
            (ReplayDomain::Datagrams, 50_000, false),
            (ReplayDomain::Datagrams, 50_001, true),
            (ReplayDomain::Ports, 50_000, false),
            (ReplayDomain::Ports, 50_001, true),
            (ReplayDomain::Codes, 30_000, false),
            (ReplayDomain::Codes, 30_001, true),
        ] {
            let mut memory = ReplayMemory::new(at(50_000));
            memory.restore_start(at(0), at(30_000));
            memory.restore_floor(KEY, domain, at(0), at(high));
            memory.restore_floor(other, domain, at(0), at(0));
            memory.keep_only(|key| key == other);
            let kept: Vec<_> = memory.floors().map(|(key, ..)| key).filter(|key| *key == KEY).collect();
            assert_eq!(kept.len(), usize::from(remembered), "{domain:?} {high}");
            assert!(memory.floors().any(|(key, ..)| key == other), "a configured key");
        }
    }

    #[test]
    fn a_fallen_counter_is_refused_as_long_as_its_key_is_configured_also_after_a_restart() {
        let counter = |value| FidoCounter { key: [9; 3], value };
        let mut memory = ReplayMemory::new(at(0));
        let mut acceptance = memory.accept(KEY, DOMAIN, at(100_000), id(1), WINDOW).unwrap();
        memory.store_counter(&mut acceptance, counter(5));
        assert_eq!(acceptance.counter, Some(counter(5)));
        assert_eq!(memory.counters().collect::<Vec<_>>(), [(KEY, at(100_000), counter(5))]);
        let mut restored = ReplayMemory::new(at(0));
        restored.restore(&acceptance);
        for memory in [&mut memory, &mut restored] {
            assert_eq!(memory.check_counter(KEY, at(100_001), counter(4)), Err(CounterFell));
            assert_eq!(memory.check_counter(KEY, at(100_001), counter(5)), Ok(()));
            memory.keep_only(|key| key == KEY);
            assert_eq!(memory.counters().count(), 1);
            memory.keep_only(|_| false);
            assert_eq!(memory.counters().count(), 0);
        }
    }

    #[test]
    fn the_last_source_of_a_key_is_kept_as_long_as_it_is_configured() {
        use crate::auth::LastSource;
        let mut memory = ReplayMemory::new(at(0));
        let source = LastSource { timestamp: at(7), address: [203, 0, 113, 9].into() };
        memory.sources_mut().store(KEY, source);
        memory.keep_only(|key| key == KEY);
        assert_eq!(memory.sources().of(KEY), Some(source));
        assert_eq!(memory.sources().iter().collect::<Vec<_>>(), [(KEY, source)]);
        memory.keep_only(|_| false);
        assert_eq!(memory.sources().of(KEY), None);
    }

    proptest! {
        /// The oracle is a set: each pair of timestamp and id once, if it is above the floor.
        #[test]
        fn a_knock_that_is_restored_repeatedly_is_remembered_once(
            knocks in proptest::collection::vec((1_u64..8, 0_u32..4), 1..40),
            floor in 0_u64..4,
        ) {
            let mut memory = ReplayMemory::new(at(0));
            let mut expected = HashSet::new();
            for (timestamp, n) in knocks {
                let (timestamp, id, floor, counter) = (at(timestamp), id(n), at(floor), None);
                memory.restore(&Acceptance { key: KEY, domain: DOMAIN, timestamp, id, floor, counter });
                expected.extend(Some((timestamp, id)).filter(|_| timestamp > floor));
            }
            let mut kept: Vec<_> = memory.acceptances().map(|kept| (kept.timestamp, kept.id)).collect();
            prop_assert!(kept.is_sorted_by_key(|(timestamp, _)| *timestamp));
            let mut expected: Vec<_> = expected.into_iter().collect();
            kept.sort();
            expected.sort();
            prop_assert_eq!(kept, expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// For any order and any clocks: nothing is accepted twice, and a naive version of the rule, which keeps the
        /// whole history, gives the same result.
        #[test]
        fn the_memory_agrees_with_the_naive_rule(
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
                let verdict = memory.accept(KEY, DOMAIN, at(timestamp), id(n), WINDOW);
                prop_assert_eq!(verdict.is_ok(), new);
                if new {
                    prop_assert!(accepted.insert((n, timestamp)), "accepted twice");
                }
                let kept = memory.memories.get(&(KEY, DOMAIN)).map_or(0, |memory| memory.ids.len());
                prop_assert!(kept <= IDS_MAX);
            }
        }
    }
}
