//! Which clients the first two ports of a sequence identify now: all clients × the valid time steps.

use std::ops::RangeInclusive;

use crate::crypto::MacKey;
use crate::knock::{KnockRange, TimeStep, Timestamp};
use crate::wire::{SELECTED, selector};

/// A table that follows the clock. Each new time step costs one HMAC for each client.
#[derive(Debug, Default)]
pub(in crate::auth) struct Selectors {
    /// Sorted by ports; several clients can have the same ports.
    entries: Vec<SelectorEntry>,
    /// The time steps in the table.
    steps: Option<RangeInclusive<TimeStep>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SelectorEntry {
    ports: [u16; SELECTED],
    named: SelectorMatch,
}

/// The client and the time step of two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::auth) struct SelectorMatch {
    /// The client's index in the list.
    pub(in crate::auth) client: usize,
    /// The time step in which the ports belong to the client.
    pub(in crate::auth) step: TimeStep,
}

impl Selectors {
    /// All clients that two of these ports identify at `now`.
    pub(in crate::auth) fn find<'k>(
        &mut self,
        ports: &[u16],
        now: Timestamp,
        knock_range: KnockRange,
        keys: impl Iterator<Item = (usize, &'k MacKey)> + Clone,
    ) -> Vec<SelectorMatch> {
        let now = TimeStep::of(now);
        self.cover(now.before()..=now.after(), knock_range, keys);
        let of = |slice| ports.iter().copied().filter(move |&port| knock_range.slice(port) == Some(slice));
        let pairs = of(0).flat_map(|first| of(1).map(move |second| [first, second]));
        let found = pairs.flat_map(|pair| {
            let from = self.entries.partition_point(|entry| entry.ports < pair);
            self.entries.iter().skip(from).take_while(move |entry| entry.ports == pair)
        });
        found.map(|entry| entry.named).filter(|named| named.step.is_valid_at(now)).collect()
    }

    /// Computes the ports of the next time step in advance, so that no packet has to wait for them.
    pub(in crate::auth) fn prepare<'k>(
        &mut self,
        now: Timestamp,
        knock_range: KnockRange,
        keys: impl Iterator<Item = (usize, &'k MacKey)> + Clone,
    ) {
        let now = TimeStep::of(now);
        self.cover(now.before()..=now.after().after(), knock_range, keys);
    }

    fn cover<'k>(
        &mut self,
        wanted: RangeInclusive<TimeStep>,
        knock_range: KnockRange,
        keys: impl Iterator<Item = (usize, &'k MacKey)> + Clone,
    ) {
        let is_present = |step: &TimeStep| self.steps.as_ref().is_some_and(|steps| steps.contains(step));
        if is_present(wanted.start()) && is_present(wanted.end()) {
            return;
        }
        let missing = (wanted.start().number()..=wanted.end().number()).map(TimeStep::new);
        let missing: Vec<TimeStep> = missing.filter(|step| !is_present(step)).collect();
        self.entries.retain(|entry| wanted.contains(&entry.named.step));
        for step in missing {
            let named = |(client, key)| SelectorEntry {
                ports: selector(key, step, knock_range),
                named: SelectorMatch { client, step },
            };
            self.entries.extend(keys.clone().map(named));
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
        fn two_ports_identify_a_client_exactly_while_their_time_step_is_valid(
            start in 0_u64..10_000_000,
            moves in proptest::collection::vec((-100_000_i64..150_000, any::<bool>()), 1..20),
        ) {
            // The third client has the key of the first one, and therefore its ports.
            let keys = [b"a", b"b", b"a"].map(|key| MacKey::new(key));
            let knock_range = KnockRange::USUAL;
            let mut selectors = Selectors::default();
            let mut ms = start;
            for (jump, prepare) in moves {
                ms = ms.saturating_add_signed(jump);
                let now = Timestamp::from_millis(ms);
                if prepare {
                    selectors.prepare(now, knock_range, keys.iter().enumerate());
                }
                let middle = TimeStep::of(now).number();
                for step in (middle.saturating_sub(3)..middle + 4).map(TimeStep::new) {
                    for (client, key) in keys.iter().enumerate() {
                        let mut ports = selector(key, step, knock_range).to_vec();
                        ports.extend([knock_range.port(0, 1), knock_range.port(1, 1), knock_range.port(7, 1)]);
                        let found = selectors.find(&ports, now, knock_range, keys.iter().enumerate());
                        let is_valid = step.number().abs_diff(middle) <= 1;
                        prop_assert_eq!(found.contains(&SelectorMatch { client, step }), is_valid);
                    }
                }
                prop_assert!(selectors.entries.len() <= 4 * keys.len());
            }
        }
    }

    #[test]
    fn a_prepared_time_step_needs_no_keys_when_it_begins() {
        let (key, knock_range) = (MacKey::new(b"a"), KnockRange::USUAL);
        let now = Timestamp::from_millis(1_795_331_877_123);
        let step = TimeStep::of(now).after().after();
        let mut selectors = Selectors::default();
        selectors.prepare(now, knock_range, [(0, &key)].into_iter());
        let next = step.before().begin();
        let found = selectors.find(&selector(&key, step, knock_range), next, knock_range, std::iter::empty());
        assert_eq!(found, [SelectorMatch { client: 0, step }]);
    }
}
