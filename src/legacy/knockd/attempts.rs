//! The attempts in progress: which source has reached which stage at which door. Bounded; the attempts of one source
//! are found with one hash lookup.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};

use spa_knock_core::knock::{Timestamp, canonical, mapped};

/// Most attempts. With their index they take less than 2 MiB.
pub(super) const ATTEMPTS_MAX: usize = 40_960;
/// Number of hash chains: a power of two above the number of attempts, so chains stay short.
const CHAINS: usize = 1 << 16;
/// When the table is full, 1/`SHARE` of a stage is removed, so that one search makes room for many attempts.
const SHARE: usize = 8;
/// The longest sequence.
const STAGES: usize = 32;

/// Index of an attempt. Valid until the attempt is removed.
pub(super) type Id = u32;

const NONE: Id = Id::MAX;

/// One source's progress through the sequence of one door.
#[derive(Debug, Clone, Copy)]
pub(super) struct DoorAttempt {
    /// The source, with IPv4 addresses mapped.
    source: Ipv6Addr,
    /// Time of the first packet.
    pub(super) started: Timestamp,
    /// Index of the door in the config.
    pub(super) door: u32,
    /// The next attempt in the hash chain, or the next free slot.
    next: Id,
    /// How many packets of the sequence have arrived, from 1; 0 if this slot is free.
    pub(super) stage: u8,
}

/// All attempts. A keyed hash distributes sources over the chains, so no one can choose sources that share a chain.
///
/// When the table is full, the oldest eighth of the stage with most attempts is removed. A flood of first knocks from
/// spoofed addresses therefore displaces only first knocks: an attempt is safe after its second knock, if that arrives
/// before the first one is among the oldest (at 20,000 packets per second, within 1.8 s). Refusing new attempts would
/// lock everyone out during a flood; removing attempts regardless of their stage would lose those that are nearly
/// complete.
#[derive(Debug)]
pub(super) struct Attempts {
    hasher: RandomState,
    /// The first attempt of each chain.
    chains: Vec<Id>,
    slots: Vec<DoorAttempt>,
    /// The first free slot.
    free: Id,
    /// Number of attempts at each stage.
    at_stage: [usize; STAGES],
    max: usize,
}

impl Attempts {
    /// Creates an empty table for `max` attempts. Allocates all memory immediately, so that it does not grow in a
    /// flood.
    pub(super) fn new(max: usize) -> Self {
        let free = |next| DoorAttempt {
            source: Ipv6Addr::UNSPECIFIED,
            started: Timestamp::default(),
            door: 0,
            next,
            stage: 0,
        };
        let mut slots: Vec<DoorAttempt> = (1..).take(max).map(free).collect();
        slots.iter_mut().next_back().into_iter().for_each(|last| last.next = NONE);
        Self {
            hasher: RandomState::new(),
            chains: vec![NONE; CHAINS],
            slots,
            free: 0,
            at_stage: [0; STAGES],
            max,
        }
    }

    /// Number of attempts.
    pub(super) fn count(&self) -> usize {
        self.at_stage.iter().sum()
    }

    /// The attempts of one source, in the order of their start.
    pub(super) fn of(&self, source: IpAddr) -> impl Iterator<Item = Id> {
        let source = mapped(source);
        let mut next = self.chains.get(self.chain(source)).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let id = next;
            next = self.get(id)?.next;
            Some(id)
        })
        .filter(move |id| self.get(*id).is_some_and(|attempt| attempt.source == source))
    }

    /// The attempt with this id.
    pub(super) fn get(&self, id: Id) -> Option<&DoorAttempt> {
        self.slots.get(slot(id)).filter(|attempt| attempt.stage != 0)
    }

    /// Adds an attempt at stage 1. Removes others if the table is full.
    pub(super) fn start(&mut self, source: IpAddr, door: u32, started: Timestamp) {
        if self.count() >= self.max {
            self.make_room();
        }
        let source = mapped(source);
        let attempt = DoorAttempt { source, started, door, next: NONE, stage: 1 };
        let id = self.occupy(attempt);
        let chain = self.chain(source);
        let mut link = self.chains.get_mut(chain);
        // Append to the chain, so that a source's attempts stay in the order of their start.
        while let Some(next) = link.as_deref().copied().filter(|next| *next != NONE) {
            link = self.slots.get_mut(slot(next)).map(|attempt| &mut attempt.next);
        }
        if let Some(link) = link {
            *link = id;
        }
        self.count_at(1, |count| count.saturating_add(1));
    }

    /// Increments the stage of an attempt.
    pub(super) fn advance(&mut self, id: Id) {
        let Some(attempt) = self.slots.get_mut(slot(id)).filter(|attempt| attempt.stage != 0) else {
            return;
        };
        let stage = attempt.stage;
        attempt.stage = stage.saturating_add(1);
        self.count_at(stage, |count| count.saturating_sub(1));
        self.count_at(stage.saturating_add(1), |count| count.saturating_add(1));
    }

    /// Removes an attempt.
    pub(super) fn remove(&mut self, id: Id) {
        let Some(attempt) = self.get(id).copied() else { return };
        let chain = self.chain(attempt.source);
        let mut link = self.chains.get_mut(chain);
        while let Some(next) = link.as_deref().copied().filter(|next| *next != id && *next != NONE) {
            link = self.slots.get_mut(slot(next)).map(|attempt| &mut attempt.next);
        }
        if let Some(link) = link {
            *link = attempt.next;
        }
        if let Some(emptied) = self.slots.get_mut(slot(id)) {
            *emptied = DoorAttempt { next: self.free, stage: 0, ..attempt };
            self.free = id;
        }
        self.count_at(attempt.stage, |count| count.saturating_sub(1));
    }

    /// All attempts, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Id, &DoorAttempt)> {
        (0..).zip(&self.slots).filter(|(_, attempt)| attempt.stage != 0)
    }

    /// Removes the oldest attempts of the stage with most attempts.
    fn make_room(&mut self) {
        let stages = (0_u8..).zip(self.at_stage);
        let Some((stage, count)) = stages.max_by_key(|(_, count)| *count) else { return };
        // Collect only ids, with the exact capacity, to use little memory.
        let mut candidates: Vec<Id> = Vec::with_capacity(count);
        let at_stage = |attempt: &DoorAttempt| attempt.stage == stage.saturating_add(1);
        candidates.extend(self.all().filter(|(_, attempt)| at_stage(attempt)).map(|(id, _)| id));
        let share = count.div_ceil(SHARE);
        if share < candidates.len() {
            candidates.select_nth_unstable_by_key(share, |id| self.get(*id).map(|attempt| attempt.started));
        }
        for id in candidates.into_iter().take(share) {
            self.remove(id);
        }
    }

    /// Stores an attempt in a free slot, which must exist.
    fn occupy(&mut self, attempt: DoorAttempt) -> Id {
        let id = self.free;
        if let Some(slot) = self.slots.get_mut(slot(id)) {
            self.free = slot.next;
            *slot = attempt;
        }
        id
    }

    fn chain(&self, source: Ipv6Addr) -> usize {
        let [low, high, ..] = self.hasher.hash_one(source).to_le_bytes();
        usize::from(u16::from_le_bytes([low, high]))
    }

    fn count_at(&mut self, stage: u8, change: impl Fn(usize) -> usize) {
        if let Some(count) = self.at_stage.get_mut(usize::from(stage).saturating_sub(1)) {
            *count = change(*count);
        }
    }
}

impl DoorAttempt {
    /// The source's address.
    pub(super) fn source(&self) -> IpAddr {
        canonical(self.source.into())
    }
}

fn slot(id: Id) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn doors(attempts: &Attempts, source: IpAddr) -> Vec<(u32, u8)> {
        attempts.of(source).filter_map(|id| attempts.get(id)).map(|found| (found.door, found.stage)).collect()
    }

    #[test]
    fn the_attempts_take_less_than_2_mib() {
        let bytes = ATTEMPTS_MAX * size_of::<DoorAttempt>() + CHAINS * size_of::<Id>();
        assert!(bytes < 2 << 20, "{bytes}");
        const { assert!(CHAINS > ATTEMPTS_MAX) };
    }

    #[test]
    fn a_flood_of_first_knocks_displaces_only_first_knocks() {
        let mut attempts = Attempts::new(1_000);
        let (early, late) = (address(1), address(2));
        attempts.start(early, 0, at(0));
        let first = attempts.of(early).next().unwrap();
        attempts.advance(first);
        for n in 0..100_000 {
            attempts.start(address(1_000 + n), 0, at(1 + u64::from(n)));
            assert!(attempts.count() <= 1_000);
            if n == 99_500 {
                attempts.start(late, 0, at(u64::from(n)));
            }
        }
        assert_eq!(doors(&attempts, early), [(0, 2)]);
        assert_eq!(doors(&attempts, late), [(0, 1)], "500 later attempts do not displace it");
        assert_eq!(doors(&attempts, address(1_000)), []);
        assert_eq!(attempts.slots.len(), 1_000);
    }

    #[test]
    fn a_flood_of_second_knocks_does_not_displace_first_and_third_ones() {
        let mut attempts = Attempts::new(100);
        for (source, stage) in [(1, 1), (3, 3)] {
            attempts.start(address(source), 0, at(0));
            let id = attempts.of(address(source)).next().unwrap();
            (1..stage).for_each(|_| attempts.advance(id));
        }
        for n in 0..10_000 {
            let source = address(1_000 + n);
            attempts.start(source, 0, at(1));
            let id = attempts.of(source).next().unwrap();
            attempts.advance(id);
        }
        assert_eq!([1, 3].map(|source| doors(&attempts, address(source))), [[(0, 1)], [(0, 3)]]);
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Start(u32, u32),
        Advance(u32, usize),
        Remove(u32, usize),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            (0..6_u32, 0..4_u32).prop_map(|(source, door)| Operation::Start(source, door)),
            (0..6_u32, 0..3_usize).prop_map(|(source, which)| Operation::Advance(source, which)),
            (0..6_u32, 0..3_usize).prop_map(|(source, which)| Operation::Remove(source, which)),
        ]
    }

    proptest! {
        #[test]
        fn the_attempts_of_a_source_keep_their_order(operations in proptest::collection::vec(operation(), 0..80)) {
            let mut attempts = Attempts::new(1_000);
            let mut naive: BTreeMap<u32, Vec<(u32, u8)>> = BTreeMap::new();
            for operation in operations {
                match operation {
                    Operation::Start(source, door) => {
                        attempts.start(address(source), door, at(0));
                        naive.entry(source).or_default().push((door, 1));
                    }
                    Operation::Advance(source, which) => {
                        let id = attempts.of(address(source)).nth(which);
                        if let Some(id) = id {
                            attempts.advance(id);
                        }
                        if let Some(found) = naive.entry(source).or_default().get_mut(which) {
                            found.1 += 1;
                        }
                    }
                    Operation::Remove(source, which) => {
                        let id = attempts.of(address(source)).nth(which);
                        if let Some(id) = id {
                            attempts.remove(id);
                        }
                        let list = naive.entry(source).or_default();
                        if which < list.len() {
                            list.remove(which);
                        }
                    }
                }
                for source in 0..6 {
                    let expected = naive.get(&source).cloned().unwrap_or_default();
                    prop_assert_eq!(doors(&attempts, address(source)), expected);
                }
                prop_assert_eq!(attempts.count(), naive.values().map(Vec::len).sum::<usize>());
                prop_assert_eq!(attempts.all().count(), attempts.count());
            }
        }
    }
}
