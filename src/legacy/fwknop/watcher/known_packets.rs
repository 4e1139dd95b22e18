//! The authentic packets that were passed on. A copy costs the keeper nothing and uses up no one's limit: otherwise
//! anyone who has recorded one packet could exhaust its key's limit with it.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::hash::BuildHasher as _;
use std::time::Duration;

use crate::legacy::fwknop::allowance::Allowance;
use spa_knock_core::knock::Steady;

/// How many packets are remembered, the latest; about 3 MB.
const REMEMBERED_MAX: usize = 65_536;
/// A copy within this time comes from another interface, or from a client that sends twice.
const SAME: Duration = Duration::from_secs(1);

/// What to do with an authentic packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// Pass it on, if its key's limit permits.
    New,
    /// Pass it on: the keeper writes an audit record about the replay.
    Replay,
    /// Drop it.
    Copy,
}

/// The remembered packets, by hash, and when they were last passed on.
pub(super) struct KnownPackets {
    hasher: RandomState,
    seen: HashMap<u64, Steady>,
    order: VecDeque<u64>,
    /// How many replays are reported.
    replays: Allowance,
}

impl KnownPackets {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            seen: HashMap::with_capacity(REMEMBERED_MAX),
            order: VecDeque::with_capacity(REMEMBERED_MAX),
            replays: Allowance::new(10, 1),
        }
    }

    /// Whether the packet with this text is new; it is remembered.
    pub(super) fn note(&mut self, text: &str, now: Steady) -> Novelty {
        let hash = self.hasher.hash_one(text);
        match self.seen.entry(hash) {
            Entry::Occupied(mut passed) => {
                // A copy does not postpone the report: a flood of copies that begins immediately must be reported, too.
                if now.since(*passed.get()) < SAME || !self.replays.take(1, now) {
                    return Novelty::Copy;
                }
                passed.insert(now);
                Novelty::Replay
            }
            Entry::Vacant(place) => {
                place.insert(now);
                self.order.push_back(hash);
                if self.order.len() >= REMEMBERED_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.seen.remove(&oldest);
                }
                Novelty::New
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_reported_and_a_copy_or_a_flood_of_replays_is_not() {
        let at = |ms| Steady::from_duration(Duration::from_millis(ms));
        let mut known = KnownPackets::new();
        assert_eq!(known.note("a", at(0)), Novelty::New);
        assert_eq!(known.note("a", at(5)), Novelty::Copy);
        assert_eq!(known.note("b", at(6)), Novelty::New);
        assert_eq!(known.note("a", at(2_000)), Novelty::Replay);
        // A flood of 100 s at 100 packets per second.
        let flood = (0..10_000).map(|n| known.note("b", at(6 + n * 10)));
        let reported = flood.filter(|novelty| *novelty == Novelty::Replay).count();
        assert!((1..=100).contains(&reported), "{reported}");
    }

    #[test]
    fn memory_is_bounded_and_the_latest_packets_are_kept() {
        let at = Steady::from_duration(Duration::ZERO);
        let mut known = KnownPackets::new();
        for number in 0..200_000 {
            assert_eq!(known.note(&format!("{number}"), at), Novelty::New);
        }
        assert!(known.seen.len() < REMEMBERED_MAX && known.seen.len() == known.order.len());
        assert_eq!(known.note("199999", at), Novelty::Copy);
        assert_eq!(known.note("0", at), Novelty::New);
    }
}
