//! Whom the first two ports of a sequence name now: all clients × the steps that are good.

use std::ops::RangeInclusive;

use crate::crypto::MacKey;
use crate::knock::{KnockRange, TimeStep, Timestamp};
use crate::wire::{SELECTED, selector};

/// A table that follows the clock; each new step costs one HMAC a client.
#[derive(Debug, Default)]
pub(in crate::auth) struct Selectors {
    /// In order of their ports; several clients can have the same.
    entries: Vec<SelectorEntry>,
    /// The steps that are in the table.
    steps: Option<RangeInclusive<TimeStep>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SelectorEntry {
    ports: [u16; SELECTED],
    named: SelectorMatch,
}

/// Whom two ports name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::auth) struct SelectorMatch {
    /// The client, by its place in the list.
    pub(in crate::auth) client: usize,
    /// The step in which they are its.
    pub(in crate::auth) step: TimeStep,
}

impl Selectors {
    /// All who are named by two of these ports at `now`.
    pub(in crate::auth) fn find<'k>(
        &mut self,
        ports: &[u16],
        now: Timestamp,
        knock_range: KnockRange,
        keys: impl Iterator<Item = &'k MacKey> + Clone,
    ) -> Vec<SelectorMatch> {
        let now = TimeStep::of(now);
        self.cover(now.before()..=now.after(), knock_range, keys);
        let of = |slice| ports.iter().copied().filter(move |&port| knock_range.slice(port) == Some(slice));
        let pairs = of(0).flat_map(|first| of(1).map(move |second| [first, second]));
        let found = pairs.flat_map(|pair| {
            let from = self.entries.partition_point(|entry| entry.ports < pair);
            self.entries.iter().skip(from).take_while(move |entry| entry.ports == pair)
        });
        found.map(|entry| entry.named).filter(|named| named.step.is_good_at(now)).collect()
    }

    /// Makes those of the coming step, so that no packet has to wait for them.
    pub(in crate::auth) fn prepare<'k>(
        &mut self,
        now: Timestamp,
        knock_range: KnockRange,
        keys: impl Iterator<Item = &'k MacKey> + Clone,
    ) {
        let now = TimeStep::of(now);
        self.cover(now.before()..=now.after().after(), knock_range, keys);
    }

    fn cover<'k>(
        &mut self,
        wanted: RangeInclusive<TimeStep>,
        knock_range: KnockRange,
        keys: impl Iterator<Item = &'k MacKey> + Clone,
    ) {
        let is_there = |step: &TimeStep| self.steps.as_ref().is_some_and(|steps| steps.contains(step));
        if is_there(wanted.start()) && is_there(wanted.end()) {
            return;
        }
        let missing = (wanted.start().number()..=wanted.end().number()).map(TimeStep::new);
        let missing: Vec<TimeStep> = missing.filter(|step| !is_there(step)).collect();
        self.entries.retain(|entry| wanted.contains(&entry.named.step));
        for step in missing {
            let named = |(client, key)| SelectorEntry {
                ports: selector(key, step, knock_range),
                named: SelectorMatch { client, step },
            };
            self.entries.extend(keys.clone().enumerate().map(named));
        }
        self.entries.sort_unstable();
        self.steps = Some(wanted);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_ports_name_a_client_exactly_while_their_step_is_good(
            start in 0_u64..10_000_000,
            moves in proptest::collection::vec((-100_000_i64..150_000, any::<bool>()), 1..20),
        ) {
            // The third has the first one's key, and so its ports.
            let keys = [b"a", b"b", b"a"].map(|key| MacKey::new(key));
            let knock_range = KnockRange::USUAL;
            let mut selectors = Selectors::default();
            let mut ms = start;
            for (jump, prepare) in moves {
                ms = ms.saturating_add_signed(jump);
                let now = Timestamp::from_millis(ms);
                if prepare {
                    selectors.prepare(now, knock_range, keys.iter());
                }
                let middle = TimeStep::of(now).number();
                for step in (middle.saturating_sub(3)..middle + 4).map(TimeStep::new) {
                    for (client, key) in keys.iter().enumerate() {
                        let mut ports = selector(key, step, knock_range).to_vec();
                        ports.extend([knock_range.port(0, 1), knock_range.port(1, 1), knock_range.port(7, 1)]);
                        let found = selectors.find(&ports, now, knock_range, keys.iter());
                        let good = step.number().abs_diff(middle) <= 1;
                        prop_assert_eq!(found.contains(&SelectorMatch { client, step }), good);
                    }
                }
                prop_assert!(selectors.entries.len() <= 4 * keys.len());
            }
        }
    }
}
