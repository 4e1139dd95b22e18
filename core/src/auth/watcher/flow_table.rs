//! Which ports of the knock range each pair of addresses (from, to) has touched of late: the only thing that is kept of
//! packets that nobody has signed. Bounded in pairs and in ports; who touches too many is not looked at for a while.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::IpAddr;

use crate::knock::{KnockRange, SLICES, Steady};

/// Pairs kept; beyond them goes the one that was seen longest ago.
const PAIRS_MAX: usize = 1 << 16;
/// Ports kept of a pair: three sequences' worth. A sweep has more.
pub(in crate::auth) const PORTS_MAX: usize = 24;
/// Milliseconds for which a port is kept after it was touched last, and a pair with too many is ignored.
const KEPT: u32 = 10_000;
/// No slot.
const NONE: u32 = u32::MAX;

/// What names a pair: a keyed hash of its addresses. One packet of a new pair in 2⁴⁸ meets another pair's name, and
/// then their ports count together.
pub(in crate::auth) type FlowId = u64;

/// The table. `now` never runs backwards; it is looked at often enough that nothing in it is older than a minute.
pub(in crate::auth) struct FlowTable {
    knock_range: KnockRange,
    hash: RandomState,
    room: usize,
    places: HashMap<FlowId, u32, BuildHasherDefault<FlowIdHasher>>,
    slots: Vec<Flow>,
    /// The n-th port of every slot. Made when a first pair has that many: a flood from many addresses takes one.
    ranks: Vec<Vec<RecordedHit>>,
    /// From the pair that was seen last to the one that was seen longest ago.
    newest: u32,
    oldest: u32,
    /// Slots that have been let go, by their `older`.
    free: u32,
}

/// One pair.
#[derive(Clone, Copy)]
struct Flow {
    name: FlowId,
    newer: u32,
    older: u32,
    seen: Moment,
    /// Since when it is ignored.
    ignored: Option<Moment>,
    ports: u8,
    /// Whether a port has joined since it was taken last.
    grown: bool,
}

/// A port, and when it was touched last: milliseconds modulo 2¹⁶, which are a minute.
#[derive(Clone, Copy, Default)]
struct RecordedHit {
    port: u16,
    at: u16,
}

/// Milliseconds modulo 2³².
#[derive(Clone, Copy)]
struct Moment(u32);

impl Moment {
    fn of(now: Steady) -> Self {
        let [.., a, b, c, d] = now.as_millis().to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    const fn age(self, now: Self) -> u32 {
        now.0.wrapping_sub(self.0)
    }
}

impl RecordedHit {
    fn new(port: u16, now: Moment) -> Self {
        let [.., a, b] = now.0.to_be_bytes();
        Self { port, at: u16::from_be_bytes([a, b]) }
    }

    fn is_over(self, now: Moment) -> bool {
        u32::from(Self::new(0, now).at.wrapping_sub(self.at)) >= KEPT
    }
}

/// The name is a hash already.
#[derive(Default)]
struct FlowIdHasher(u64);

impl Hasher for FlowIdHasher {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, name: u64) {
        self.0 = name;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl FlowTable {
    /// Nothing is known yet. `hash` must be another one for each process, or strangers could choose addresses that
    /// take long to find.
    pub(in crate::auth) fn new(knock_range: KnockRange, hash: RandomState) -> Self {
        Self::with_room(knock_range, hash, PAIRS_MAX)
    }

    fn with_room(knock_range: KnockRange, hash: RandomState, room: usize) -> Self {
        Self {
            knock_range,
            hash,
            room,
            // At once, as a table that grows is there twice for a moment. What is not used takes no memory yet.
            places: HashMap::with_capacity_and_hasher(room, BuildHasherDefault::default()),
            slots: Vec::with_capacity(room),
            ranks: Vec::new(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
        }
    }

    /// A port was touched. Returns the pair's name if a port has joined since it was taken last, and no slice of the
    /// knock range is without one: with less there is no sequence.
    pub(in crate::auth) fn record_hit(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        port: u16,
        now: Steady,
    ) -> Option<FlowId> {
        self.knock_range.slice(port)?;
        let now = Moment::of(now);
        self.forget_idle(now);
        let name = self.hash.hash_one((from, to));
        let place = match self.places.get(&name) {
            Some(&place) => place,
            None => self.admit(name, now)?,
        };
        self.renew(place, now);
        let slot = self.slot(place)?;
        if let Some(since) = slot.ignored {
            if since.age(now) < KEPT {
                return None;
            }
            slot.ignored = None;
        }
        let ports = self.keep(place, port, now);
        let slot = self.slot(place)?;
        match ports {
            HitResult::TooMany => (slot.ports, slot.grown, slot.ignored) = (0, false, Some(now)),
            HitResult::Repeated => {}
            HitResult::Joined => slot.grown = true,
        }
        (slot.grown && self.is_complete(place)).then_some(name)
    }

    /// The ports that a pair has touched, if one has joined since this was asked for last.
    pub(in crate::auth) fn take(&mut self, name: FlowId, now: Steady) -> Option<Vec<u16>> {
        let now = Moment::of(now);
        self.forget_idle(now);
        let place = *self.places.get(&name)?;
        let slot = self.slot(place)?;
        if !std::mem::take(&mut slot.grown) {
            return None;
        }
        Some(self.touches(place).filter(|touch| !touch.is_over(now)).map(|touch| touch.port).collect())
    }

    /// Puts a port among those of a pair, without those whose time is over.
    fn keep(&mut self, place: u32, port: u16, now: Moment) -> HitResult {
        let before = self.touches(place).count();
        let mut left = 0;
        let mut known = false;
        for rank in 0..before {
            let Some(touch) = self.cell(rank, place).copied() else { break };
            let same = touch.port == port;
            if touch.is_over(now) {
                continue;
            }
            known |= same;
            let touch = if same { RecordedHit::new(port, now) } else { touch };
            if let Some(cell) = self.cell(left, place) {
                *cell = touch;
            }
            left = left.saturating_add(1);
        }
        let mut kept = if known { HitResult::Repeated } else { HitResult::Joined };
        if !known && left >= PORTS_MAX {
            kept = HitResult::TooMany;
        } else if !known {
            self.grow(left);
            if let Some(cell) = self.cell(left, place) {
                *cell = RecordedHit::new(port, now);
            }
            left = left.saturating_add(1);
        }
        if let Some(slot) = self.slot(place) {
            slot.ports = u8::try_from(left).unwrap_or(u8::MAX);
        }
        kept
    }

    fn is_complete(&self, place: u32) -> bool {
        let mut slices = [false; SLICES];
        for touch in self.touches(place) {
            if let Some(slice) = self.knock_range.slice(touch.port).and_then(|slice| slices.get_mut(slice)) {
                *slice = true;
            }
        }
        slices.iter().all(|touched| *touched)
    }

    fn touches(&self, place: u32) -> impl Iterator<Item = RecordedHit> {
        let ports = self.slots.get(index(place)).map_or(0, |slot| usize::from(slot.ports));
        self.ranks.iter().take(ports).filter_map(move |rank| rank.get(index(place)).copied())
    }

    fn cell(&mut self, rank: usize, place: u32) -> Option<&mut RecordedHit> {
        self.ranks.get_mut(rank)?.get_mut(index(place))
    }

    /// Makes room for every pair's port of this rank.
    fn grow(&mut self, rank: usize) {
        if self.ranks.len() <= rank {
            self.ranks.push(vec![RecordedHit::default(); self.room]);
        }
    }

    fn slot(&mut self, place: u32) -> Option<&mut Flow> {
        self.slots.get_mut(index(place))
    }

    /// Room for a pair that is not there: a slot that is free, a new one, or that of the pair seen longest ago.
    fn admit(&mut self, name: FlowId, now: Moment) -> Option<u32> {
        if self.free == NONE && self.slots.len() >= self.room {
            self.forget(self.oldest);
        }
        let slot = Flow { name, newer: NONE, older: NONE, seen: now, ignored: None, ports: 0, grown: false };
        let place = if self.free == NONE {
            self.slots.push(slot);
            u32::try_from(self.slots.len().checked_sub(1)?).ok()?
        } else {
            let place = self.free;
            self.free = std::mem::replace(self.slot(place)?, slot).older;
            place
        };
        self.places.insert(name, place);
        self.link(place);
        Some(place)
    }

    /// Of pairs that nobody has seen for as long, nothing is kept any more.
    fn forget_idle(&mut self, now: Moment) {
        while let Some(slot) = self.slots.get(index(self.oldest))
            && slot.seen.age(now) >= KEPT
        {
            self.forget(self.oldest);
        }
    }

    fn forget(&mut self, place: u32) {
        self.unlink(place);
        let free = self.free;
        if let Some(slot) = self.slot(place) {
            let name = slot.name;
            slot.older = free;
            self.free = place;
            self.places.remove(&name);
        }
    }

    fn renew(&mut self, place: u32, now: Moment) {
        if let Some(slot) = self.slot(place) {
            slot.seen = now;
        }
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
    }

    fn link(&mut self, place: u32) {
        let second = std::mem::replace(&mut self.newest, place);
        if let Some(slot) = self.slot(place) {
            (slot.newer, slot.older) = (NONE, second);
        }
        match self.slot(second) {
            Some(second) => second.newer = place,
            None => self.oldest = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Some(&mut Flow { newer, older, .. }) = self.slot(place) else { return };
        match self.slot(newer) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slot(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }
}

/// What has become of a port.
enum HitResult {
    /// It is one more.
    Joined,
    /// It was there.
    Repeated,
    /// It would be one too many.
    TooMany,
}

/// No slot is at `NONE`: the table has fewer.
fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn from(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn ms(ms: u64) -> Steady {
        Steady::from_duration(Duration::from_millis(ms))
    }

    /// The rule as it is written, with everything kept in lists.
    #[derive(Default)]
    struct Naive {
        /// Pairs from the one seen longest ago to the one seen last.
        pairs: Vec<NaivePair>,
    }

    struct NaivePair {
        from: u8,
        seen: u64,
        ports: Vec<(u16, u64)>,
        ignored_until: u64,
        grown: bool,
    }

    impl Naive {
        fn touch(&mut self, from: u8, port: u16, now: u64, room: usize) -> Option<BTreeSet<u16>> {
            self.pairs.retain(|pair| now - pair.seen < 10_000);
            let old = self.pairs.iter().position(|pair| pair.from == from);
            let mut pair = match old {
                Some(at) => self.pairs.remove(at),
                None => {
                    if self.pairs.len() >= room {
                        self.pairs.remove(0);
                    }
                    NaivePair { from, seen: now, ports: Vec::new(), ignored_until: 0, grown: false }
                }
            };
            pair.seen = now;
            if now >= pair.ignored_until {
                pair.ports.retain(|&(_, at)| now - at < 10_000);
                if let Some(known) = pair.ports.iter_mut().find(|(known, _)| *known == port) {
                    known.1 = now;
                } else if pair.ports.len() == 24 {
                    pair.ports.clear();
                    pair.ignored_until = now + 10_000;
                    pair.grown = false;
                } else {
                    pair.ports.push((port, now));
                    pair.grown = true;
                }
            }
            let ports: BTreeSet<u16> = pair.ports.iter().map(|&(port, _)| port).collect();
            let slices: BTreeSet<u16> = ports.iter().map(|port| (port - 20_480) / 1024).collect();
            let told = pair.grown && slices.len() == 8;
            // As if whoever is told takes them at once.
            pair.grown &= !told;
            self.pairs.push(pair);
            told.then_some(ports)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Few pairs, few ports, little room and jumps in time: all that can happen, happens.
        #[test]
        fn the_table_agrees_with_the_rule_as_written(
            room in 1_usize..6,
            ports_of_a_slice in 1_u16..6,
            start in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX) - 20_000)],
            touches in proptest::collection::vec(
                (0_u8..7, 0_u16..8, 0_u16..6, prop_oneof![8 => 0_u64..40, 1 => 0_u64..3_000, 1 => 9_990_u64..10_010]),
                1..600,
            ),
        ) {
            let mut pairs = FlowTable::with_room(KnockRange::USUAL, RandomState::new(), room);
            let mut naive = Naive::default();
            let mut now = start;
            for (source, slice, number, passed) in touches {
                now += passed;
                let port = KnockRange::USUAL.port(slice.into(), number % ports_of_a_slice);
                let name = pairs.record_hit(from(source), TO, port, ms(now));
                let taken = name.and_then(|name| pairs.take(name, ms(now)));
                let expected = naive.touch(source, port, now, room);
                prop_assert_eq!(taken.map(|ports| ports.into_iter().collect::<BTreeSet<u16>>()), expected);
                prop_assert_eq!(pairs.places.len(), naive.pairs.len());
                prop_assert!(pairs.slots.len() <= room && pairs.ranks.len() <= PORTS_MAX);
            }
        }
    }

    #[test]
    fn ports_outside_the_band_and_other_pairs_leave_no_trace() {
        let mut pairs = FlowTable::new(KnockRange::USUAL, RandomState::new());
        for port in [0, 22, 20_479, 28_672, u16::MAX] {
            assert_eq!(pairs.record_hit(from(1), TO, port, ms(0)), None);
        }
        assert!(pairs.slots.is_empty());
        let touch = |pairs: &mut FlowTable, n, slice| {
            pairs.record_hit(from(n), TO, KnockRange::USUAL.port(slice, 7), ms(0)).is_some()
        };
        assert!((0..7).all(|slice| !touch(&mut pairs, 1, slice)));
        assert!(!touch(&mut pairs, 2, 7), "another's port");
        assert_eq!(
            pairs.record_hit(from(1), from(9), KnockRange::USUAL.port(7, 7), ms(0)),
            None,
            "to another address"
        );
        assert!(touch(&mut pairs, 1, 7));
    }

    #[test]
    fn what_was_not_taken_is_told_again_and_what_was_taken_only_when_a_port_joins() {
        let mut pairs = FlowTable::new(KnockRange::USUAL, RandomState::new());
        let mut touch =
            |slice, number| pairs.record_hit(from(1), TO, KnockRange::USUAL.port(slice, number), ms(0));
        let name = (0..8).map(|slice| touch(slice, 0)).last().unwrap().unwrap();
        assert_eq!(touch(3, 0), Some(name), "nobody has taken it yet");
        assert_eq!(pairs.take(name, ms(1)).unwrap().len(), 8);
        assert_eq!(pairs.take(name, ms(1)), None);
        let mut touch =
            |slice, number| pairs.record_hit(from(1), TO, KnockRange::USUAL.port(slice, number), ms(1));
        assert_eq!(touch(3, 0), None, "a copy");
        assert_eq!(touch(3, 1), Some(name));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_pairs_seen_last() {
        let mut pairs = FlowTable::new(KnockRange::USUAL, RandomState::new());
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..200_000_u32 {
            assert_eq!(pairs.record_hit(source(n), TO, 20_480, ms(u64::from(n) / 100)), None);
        }
        assert_eq!((pairs.slots.len(), pairs.places.len(), pairs.ranks.len()), (PAIRS_MAX, PAIRS_MAX, 1));
        let first_kept = 200_000 - u32::try_from(PAIRS_MAX).unwrap();
        for n in [first_kept, 199_999] {
            assert!(pairs.places.contains_key(&pairs.hash.hash_one((source(n), TO))), "{n}");
        }
        assert!(!pairs.places.contains_key(&pairs.hash.hash_one((source(first_kept - 1), TO))));
        pairs.record_hit(source(0), TO, 20_480, ms(20_000));
        assert_eq!(pairs.places.len(), 1, "all others are forgotten");
    }
}
