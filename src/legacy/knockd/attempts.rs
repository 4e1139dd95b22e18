//! Attempts that are under way: who has come how far at which door. Bounded; everything about one source is found by
//! one look.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};

use spa_knock_core::knock::{Timestamp, canonical, mapped};

/// Room for so many attempts takes, with its index, less than 2 MiB.
pub(super) const ATTEMPTS_MAX: usize = 40_960;
/// A power of two above the number of attempts: chains stay short.
const CHAINS: usize = 1 << 16;
/// What goes at once when all room is taken: one search makes room for many.
const SHARE: usize = 8;
/// The longest sequence.
const STAGES: usize = 32;

/// An attempt, by its place. Good until that attempt is removed.
pub(super) type Id = u32;

const NONE: Id = Id::MAX;

/// Somebody on the way through a door's sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct DoorAttempt {
    /// Who knocks.
    source: Ipv6Addr,
    /// When the first knock came.
    pub(super) started: Timestamp,
    /// The door, by its place in the config.
    pub(super) door: u32,
    /// The next one in the chain, or in the chain of free places.
    next: Id,
    /// How many knocks have come, from 1; 0 = this place is free.
    pub(super) stage: u8,
}

/// All attempts. Sources are put into chains by a keyed hash, so that nobody can choose sources that meet in one.
///
/// When all room is taken, of the stage that most have come to the oldest eighth goes. Who floods with first knocks
/// from made-up addresses drives out first knocks alone: whoever has got in his second knock before his first was the
/// oldest (at 20,000 a second in 1.8 s) is safe from there on. Refusing new ones would keep everybody out for as long
/// as the flood lasts; making room without regard to the stage would lose those who are nearly in.
#[derive(Debug)]
pub(super) struct Attempts {
    hasher: RandomState,
    /// The first of each chain.
    chains: Vec<Id>,
    places: Vec<DoorAttempt>,
    free: Id,
    /// How many have come to each stage.
    at_stage: [usize; STAGES],
    max: usize,
}

impl Attempts {
    /// No attempts, and room for `max`. All of it is taken now: a flood must not make us grow.
    pub(super) fn new(max: usize) -> Self {
        let free = |next| DoorAttempt {
            source: Ipv6Addr::UNSPECIFIED,
            started: Timestamp::default(),
            door: 0,
            next,
            stage: 0,
        };
        let mut places: Vec<DoorAttempt> = (1..).take(max).map(free).collect();
        places.iter_mut().next_back().into_iter().for_each(|last| last.next = NONE);
        Self {
            hasher: RandomState::new(),
            chains: vec![NONE; CHAINS],
            places,
            free: 0,
            at_stage: [0; STAGES],
            max,
        }
    }

    /// How many are under way.
    pub(super) fn count(&self) -> usize {
        self.at_stage.iter().sum()
    }

    /// Those of one source, in the order in which they began.
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
        self.places.get(place(id)).filter(|attempt| attempt.stage != 0)
    }

    /// A new one at stage 1. Makes room where there is none.
    pub(super) fn start(&mut self, source: IpAddr, door: u32, started: Timestamp) {
        if self.count() >= self.max {
            self.make_room();
        }
        let source = mapped(source);
        let attempt = DoorAttempt { source, started, door, next: NONE, stage: 1 };
        let id = self.occupy(attempt);
        let chain = self.chain(source);
        let mut link = self.chains.get_mut(chain);
        // At the end of the chain: the order of a source's attempts is that of their beginning.
        while let Some(next) = link.as_deref().copied().filter(|next| *next != NONE) {
            link = self.places.get_mut(place(next)).map(|attempt| &mut attempt.next);
        }
        if let Some(link) = link {
            *link = id;
        }
        self.count_at(1, |count| count.saturating_add(1));
    }

    /// One more knock has come.
    pub(super) fn advance(&mut self, id: Id) {
        let Some(attempt) = self.places.get_mut(place(id)).filter(|attempt| attempt.stage != 0) else {
            return;
        };
        let stage = attempt.stage;
        attempt.stage = stage.saturating_add(1);
        self.count_at(stage, |count| count.saturating_sub(1));
        self.count_at(stage.saturating_add(1), |count| count.saturating_add(1));
    }

    /// It is over.
    pub(super) fn remove(&mut self, id: Id) {
        let Some(attempt) = self.get(id).copied() else { return };
        let chain = self.chain(attempt.source);
        let mut link = self.chains.get_mut(chain);
        while let Some(next) = link.as_deref().copied().filter(|next| *next != id && *next != NONE) {
            link = self.places.get_mut(place(next)).map(|attempt| &mut attempt.next);
        }
        if let Some(link) = link {
            *link = attempt.next;
        }
        if let Some(emptied) = self.places.get_mut(place(id)) {
            *emptied = DoorAttempt { next: self.free, stage: 0, ..attempt };
            self.free = id;
        }
        self.count_at(attempt.stage, |count| count.saturating_sub(1));
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Id, &DoorAttempt)> {
        (0..).zip(&self.places).filter(|(_, attempt)| attempt.stage != 0)
    }

    /// Takes away the oldest of those that share the commonest stage.
    fn make_room(&mut self) {
        let stages = (0_u8..).zip(self.at_stage);
        let Some((stage, count)) = stages.max_by_key(|(_, count)| *count) else { return };
        // Ids alone, and room for no more: this must not cost much memory when memory is short.
        let mut those: Vec<Id> = Vec::with_capacity(count);
        let at_stage = |attempt: &DoorAttempt| attempt.stage == stage.saturating_add(1);
        those.extend(self.all().filter(|(_, attempt)| at_stage(attempt)).map(|(id, _)| id));
        let share = count.div_ceil(SHARE);
        if share < those.len() {
            those.select_nth_unstable_by_key(share, |id| self.get(*id).map(|attempt| attempt.started));
        }
        for id in those.into_iter().take(share) {
            self.remove(id);
        }
    }

    /// Puts it in a free place, of which there is one.
    fn occupy(&mut self, attempt: DoorAttempt) -> Id {
        let id = self.free;
        if let Some(place) = self.places.get_mut(place(id)) {
            self.free = place.next;
            *place = attempt;
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
    /// Who knocks.
    pub(super) fn source(&self) -> IpAddr {
        canonical(self.source.into())
    }
}

fn place(id: Id) -> usize {
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
    fn an_attempt_takes_no_more_room_than_was_reckoned_with() {
        let bytes = ATTEMPTS_MAX * size_of::<DoorAttempt>() + CHAINS * size_of::<Id>();
        assert!(bytes < 2 << 20, "{bytes}");
        const { assert!(CHAINS > ATTEMPTS_MAX) };
    }

    #[test]
    fn a_flood_of_first_knocks_drives_out_first_knocks_alone() {
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
        assert_eq!(doors(&attempts, late), [(0, 1)], "500 later ones leave it where it is");
        assert_eq!(doors(&attempts, address(1_000)), []);
        assert_eq!(attempts.places.len(), 1_000);
    }

    #[test]
    fn a_flood_of_second_knocks_leaves_first_and_third_ones_in_peace() {
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
    enum Deed {
        Start(u32, u32),
        Advance(u32, usize),
        Remove(u32, usize),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            (0..6_u32, 0..4_u32).prop_map(|(source, door)| Deed::Start(source, door)),
            (0..6_u32, 0..3_usize).prop_map(|(source, which)| Deed::Advance(source, which)),
            (0..6_u32, 0..3_usize).prop_map(|(source, which)| Deed::Remove(source, which)),
        ]
    }

    proptest! {
        #[test]
        fn each_source_has_its_attempts_in_their_order(executor in proptest::collection::vec(deed(), 0..80)) {
            let mut attempts = Attempts::new(1_000);
            let mut naive: BTreeMap<u32, Vec<(u32, u8)>> = BTreeMap::new();
            for deed in executor {
                match deed {
                    Deed::Start(source, door) => {
                        attempts.start(address(source), door, at(0));
                        naive.entry(source).or_default().push((door, 1));
                    }
                    Deed::Advance(source, which) => {
                        let id = attempts.of(address(source)).nth(which);
                        if let Some(id) = id {
                            attempts.advance(id);
                        }
                        if let Some(found) = naive.entry(source).or_default().get_mut(which) {
                            found.1 += 1;
                        }
                    }
                    Deed::Remove(source, which) => {
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
