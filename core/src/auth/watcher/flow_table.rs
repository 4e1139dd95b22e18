//! Recent port hits for each pair of addresses (from, to): the only data kept about unsigned packets. Pairs and ports
//! are limited; a pair with too many ports is ignored for a while.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::IpAddr;

use crate::knock::{KnockRange, SLICES, Steady};

/// Maximum number of pairs; beyond it, the least recently seen pair is forgotten.
const PAIRS_MAX: usize = 1 << 16;
/// Maximum number of ports of a pair: enough for three sequences. A port scan hits more.
pub(in crate::auth) const PORTS_MAX: usize = 24;
/// Milliseconds for which a port is kept after its last hit, and for which a pair with too many ports is ignored.
const KEPT: u32 = 10_000;
/// No slot.
const NONE: u32 = u32::MAX;

/// Identifies a pair: a keyed hash of its addresses. With a probability of 2⁻⁴⁸ for each new pair, two pairs share an
/// id and their ports are merged.
pub(in crate::auth) type FlowId = u64;

/// The table. `now` never runs backwards, and the table is used often enough that no entry is older than a minute.
pub(in crate::auth) struct FlowTable {
    knock_range: KnockRange,
    hash: RandomState,
    room: usize,
    places: HashMap<FlowId, u32, BuildHasherDefault<FlowIdHasher>>,
    slots: Vec<Flow>,
    /// The n-th port of every slot. Allocated when a pair first has that many ports: a flood from many addresses needs
    /// only one.
    ranks: Vec<Vec<RecordedHit>>,
    /// The list of pairs from the most recently to the least recently seen.
    newest: u32,
    oldest: u32,
    /// Free slots, linked by `older`.
    free: u32,
}

/// One pair.
#[derive(Clone, Copy)]
struct Flow {
    id: FlowId,
    newer: u32,
    older: u32,
    seen: Moment,
    /// When the pair began to be ignored.
    ignored: Option<Moment>,
    ports: u8,
    /// Whether a port was added since the ports were last taken.
    grown: bool,
}

/// A port and the time of its last hit: milliseconds modulo 2¹⁶, about a minute.
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

    fn is_expired(self, now: Moment) -> bool {
        u32::from(Self::new(0, now).at.wrapping_sub(self.at)) >= KEPT
    }
}

/// The id is already a hash.
#[derive(Default)]
struct FlowIdHasher(u64);

impl Hasher for FlowIdHasher {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl FlowTable {
    /// An empty table. `hash` must be random for each process, or attackers could choose addresses whose lookup is
    /// slow.
    pub(in crate::auth) fn new(knock_range: KnockRange, hash: RandomState) -> Self {
        Self::with_room(knock_range, hash, PAIRS_MAX)
    }

    fn with_room(knock_range: KnockRange, hash: RandomState, room: usize) -> Self {
        Self {
            knock_range,
            hash,
            room,
            // Allocated in advance, because a growing table exists twice for a moment. Unused pages take no memory.
            places: HashMap::with_capacity_and_hasher(room, BuildHasherDefault::default()),
            slots: Vec::with_capacity(room),
            ranks: Vec::new(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
        }
    }

    /// Records a port hit. Returns the pair's id if a port was added since its ports were last taken and every slice of
    /// the knock range has a hit, as each sequence needs.
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
        let id = self.hash.hash_one((from, to));
        let place = match self.places.get(&id) {
            Some(&place) => place,
            None => self.admit(id, now)?,
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
        (slot.grown && self.is_complete(place)).then_some(id)
    }

    /// The recently hit ports of a pair, if one was added since the last call.
    pub(in crate::auth) fn take(&mut self, id: FlowId, now: Steady) -> Option<Vec<u16>> {
        let now = Moment::of(now);
        self.forget_idle(now);
        let place = *self.places.get(&id)?;
        let slot = self.slot(place)?;
        if !std::mem::take(&mut slot.grown) {
            return None;
        }
        Some(self.hits(place).filter(|hit| !hit.is_expired(now)).map(|hit| hit.port).collect())
    }

    /// Adds a port to a pair and removes the expired ones.
    fn keep(&mut self, place: u32, port: u16, now: Moment) -> HitResult {
        let before = self.hits(place).count();
        let mut left = 0;
        let mut known = false;
        for rank in 0..before {
            let Some(hit) = self.cell(rank, place).copied() else { break };
            let same = hit.port == port;
            if hit.is_expired(now) {
                continue;
            }
            known |= same;
            let hit = if same { RecordedHit::new(port, now) } else { hit };
            if let Some(cell) = self.cell(left, place) {
                *cell = hit;
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
        for hit in self.hits(place) {
            if let Some(slice) = self.knock_range.slice(hit.port).and_then(|slice| slices.get_mut(slice)) {
                *slice = true;
            }
        }
        slices.iter().all(|is_hit| *is_hit)
    }

    fn hits(&self, place: u32) -> impl Iterator<Item = RecordedHit> {
        let ports = self.slots.get(index(place)).map_or(0, |slot| usize::from(slot.ports));
        self.ranks.iter().take(ports).filter_map(move |rank| rank.get(index(place)).copied())
    }

    fn cell(&mut self, rank: usize, place: u32) -> Option<&mut RecordedHit> {
        self.ranks.get_mut(rank)?.get_mut(index(place))
    }

    /// Allocates the ports of this rank for all pairs.
    fn grow(&mut self, rank: usize) {
        if self.ranks.len() <= rank {
            self.ranks.push(vec![RecordedHit::default(); self.room]);
        }
    }

    fn slot(&mut self, place: u32) -> Option<&mut Flow> {
        self.slots.get_mut(index(place))
    }

    /// A slot for a new pair: a free one, an unused one, or that of the least recently seen pair.
    fn admit(&mut self, id: FlowId, now: Moment) -> Option<u32> {
        if self.free == NONE && self.slots.len() >= self.room {
            self.forget(self.oldest);
        }
        let slot = Flow { id, newer: NONE, older: NONE, seen: now, ignored: None, ports: 0, grown: false };
        let place = if self.free == NONE {
            self.slots.push(slot);
            u32::try_from(self.slots.len().checked_sub(1)?).ok()?
        } else {
            let place = self.free;
            self.free = std::mem::replace(self.slot(place)?, slot).older;
            place
        };
        self.places.insert(id, place);
        self.link(place);
        Some(place)
    }

    /// Forgets the pairs that have not been seen for [`KEPT`] milliseconds.
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
            let id = slot.id;
            slot.older = free;
            self.free = place;
            self.places.remove(&id);
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

/// The effect of a hit on a pair.
enum HitResult {
    /// The port was added.
    Joined,
    /// The port was known.
    Repeated,
    /// The pair has too many ports.
    TooMany,
}

/// The table has fewer than [`NONE`] slots, so that `NONE` never refers to one.
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

    /// The rule in its simplest form, with everything in lists.
    #[derive(Default)]
    struct Naive {
        /// The pairs from the least recently to the most recently seen.
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
        fn record_hit(&mut self, from: u8, port: u16, now: u64, room: usize) -> Option<BTreeSet<u16>> {
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
            let is_reported = pair.grown && slices.len() == 8;
            // As if the caller took the ports immediately.
            pair.grown &= !is_reported;
            self.pairs.push(pair);
            is_reported.then_some(ports)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Few pairs, few ports, little room and jumps in time, so that all cases occur: one pair hits enough ports to be
        /// ignored, and most ports expire while their pair does not.
        #[test]
        fn the_table_agrees_with_the_naive_rule(
            room in 1_usize..6,
            ports_of_a_slice in 1_u16..6,
            start in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX) - 20_000)],
            hits in proptest::collection::vec(
                (
                    prop_oneof![4 => Just(0_u8), 1 => 0_u8..7],
                    0_u16..8,
                    0_u16..6,
                    prop_oneof![100 => 0_u64..40, 1 => 0_u64..3_000, 1 => 9_990_u64..10_010],
                ),
                1..600,
            ),
        ) {
            let mut pairs = FlowTable::with_room(KnockRange::USUAL, RandomState::new(), room);
            let mut naive = Naive::default();
            let mut now = start;
            for (source, slice, number, passed) in hits {
                now += passed;
                let port = KnockRange::USUAL.port(slice.into(), number % ports_of_a_slice);
                let id = pairs.record_hit(from(source), TO, port, ms(now));
                let taken = id.and_then(|id| pairs.take(id, ms(now)));
                let expected = naive.record_hit(source, port, now, room);
                prop_assert_eq!(taken.map(|ports| ports.into_iter().collect::<BTreeSet<u16>>()), expected);
                prop_assert_eq!(pairs.places.len(), naive.pairs.len());
                prop_assert!(pairs.slots.len() <= room && pairs.ranks.len() <= PORTS_MAX);
            }
        }
    }

    #[test]
    fn ports_outside_the_knock_range_and_other_pairs_have_no_effect() {
        let mut pairs = FlowTable::new(KnockRange::USUAL, RandomState::new());
        for port in [0, 22, 20_479, 28_672, u16::MAX] {
            assert_eq!(pairs.record_hit(from(1), TO, port, ms(0)), None);
        }
        assert!(pairs.slots.is_empty());
        let hit = |pairs: &mut FlowTable, n, slice| {
            pairs.record_hit(from(n), TO, KnockRange::USUAL.port(slice, 7), ms(0)).is_some()
        };
        assert!((0..7).all(|slice| !hit(&mut pairs, 1, slice)));
        assert!(!hit(&mut pairs, 2, 7), "the port of another pair");
        assert_eq!(
            pairs.record_hit(from(1), from(9), KnockRange::USUAL.port(7, 7), ms(0)),
            None,
            "to another address"
        );
        assert!(hit(&mut pairs, 1, 7));
    }

    #[test]
    fn a_complete_pair_is_reported_until_it_is_taken_and_then_only_when_a_port_is_added() {
        let mut pairs = FlowTable::new(KnockRange::USUAL, RandomState::new());
        let mut hit =
            |slice, number| pairs.record_hit(from(1), TO, KnockRange::USUAL.port(slice, number), ms(0));
        let id = (0..8).map(|slice| hit(slice, 0)).last().unwrap().unwrap();
        assert_eq!(hit(3, 0), Some(id), "not taken yet");
        assert_eq!(pairs.take(id, ms(1)).unwrap().len(), 8);
        assert_eq!(pairs.take(id, ms(1)), None);
        let mut hit =
            |slice, number| pairs.record_hit(from(1), TO, KnockRange::USUAL.port(slice, number), ms(1));
        assert_eq!(hit(3, 0), None, "a known port");
        assert_eq!(hit(3, 1), Some(id));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_most_recently_seen_pairs() {
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

    #[test]
    fn a_pair_is_looked_up_by_its_id_and_nothing_else() {
        let mut hasher = FlowIdHasher::default();
        hasher.write_u64(7);
        hasher.write(b"other bytes");
        assert_eq!(hasher.finish(), 7);
    }

    #[test]
    fn a_port_expires_ten_seconds_after_its_hit_also_when_the_milliseconds_wrap() {
        for hit in [0, 65_535, 4_294_967_295] {
            let recorded = RecordedHit::new(20_480, Moment::of(ms(hit)));
            for (passed, expired) in [(0, false), (9_999, false), (10_000, true), (20_000, true)] {
                assert_eq!(recorded.is_expired(Moment::of(ms(hit + passed))), expired, "{hit} {passed}");
            }
        }
    }

    #[test]
    fn an_id_is_its_own_hash() {
        use std::hash::BuildHasher;
        for id in [0, 1, u64::MAX] {
            assert_eq!(BuildHasherDefault::<FlowIdHasher>::default().hash_one(id), id);
        }
    }
}
