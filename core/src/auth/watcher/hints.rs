//! Which hints select which client now: all clients × the epochs within the window.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::crypto::MacKey;
use crate::knock::Timestamp;
use crate::wire::{Hint, hint};

/// A table that follows the clock. Each packet costs one lookup; each new epoch costs one HMAC for each client.
#[derive(Debug, Default)]
pub(in crate::auth) struct Hints {
    named: HashMap<Hint, HintMatch, BuildHasherDefault<HintHasher>>,
    /// The epochs in the table.
    epochs: Option<RangeInclusive<u64>>,
}

/// The client and the epoch of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) struct HintMatch {
    /// The client's index in the list.
    pub(in crate::auth) client: usize,
    /// The epoch that the hint belongs to.
    pub(in crate::auth) epoch: u64,
}

/// Uses the hint as its own hash. The table contains HMAC outputs, which no attacker can choose, so a lookup of a
/// chosen value is not slow either.
#[derive(Debug, Default)]
struct HintHasher(u64);

impl Hasher for HintHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Only the last write counts: the length is written before the bytes.
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hints {
    /// The client that `hint` selects at `now`.
    pub(in crate::auth) fn find<'k>(
        &mut self,
        hint: &Hint,
        now: Timestamp,
        window: Duration,
        keys: impl Iterator<Item = &'k MacKey> + Clone,
    ) -> Option<HintMatch> {
        let wanted = reach(now, window);
        self.cover(&wanted, keys);
        self.named.get(hint).copied().filter(|named| wanted.contains(&named.epoch))
    }

    /// Computes the hints of the next epoch in advance, so that no packet has to wait for them.
    pub(in crate::auth) fn prepare<'k>(
        &mut self,
        now: Timestamp,
        window: Duration,
        keys: impl Iterator<Item = &'k MacKey> + Clone,
    ) {
        let wanted = reach(now, window);
        let next = wanted.end().saturating_add(1);
        self.cover(&(*wanted.start()..=next), keys);
        // Removes the epochs outside the window, which lookups ignore anyway.
        self.named.retain(|_, named| named.epoch >= *wanted.start());
        self.epochs = Some(*wanted.start()..=next);
    }

    /// Adds the epochs of `wanted` that are missing.
    fn cover<'k>(&mut self, wanted: &RangeInclusive<u64>, keys: impl Iterator<Item = &'k MacKey> + Clone) {
        if let Some(present) = &self.epochs
            && present.contains(wanted.start())
            && present.contains(wanted.end())
        {
            return;
        }
        let adjoins = self.epochs.as_ref().is_some_and(|present| present.contains(wanted.start()));
        let missing = match &self.epochs {
            Some(present) if adjoins => present.end().saturating_add(1)..=*wanted.end(),
            // The clock jumped, so the present epochs are useless.
            _ => {
                self.named.clear();
                wanted.clone()
            }
        };
        for epoch in missing {
            for (client, key) in keys.clone().enumerate() {
                self.named.insert(hint(key, epoch), HintMatch { client, epoch });
            }
        }
        let start = match &self.epochs {
            Some(present) if adjoins => *present.start(),
            _ => *wanted.start(),
        };
        self.epochs = Some(start..=*wanted.end());
    }
}

/// The epochs in which a fresh knock can have been created.
pub(in crate::auth) fn reach(now: Timestamp, window: Duration) -> RangeInclusive<u64> {
    now.minus(window).epoch()..=now.plus(window).epoch()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hint_is_found_exactly_while_the_window_reaches_its_epoch(
            start in 0_u64..10_000_000,
            steps in proptest::collection::vec((-200_000_i64..400_000, any::<bool>()), 1..20),
            window in 1_u64..600,
        ) {
            let window = Duration::from_secs(window);
            let keys = [MacKey::new(b"a"), MacKey::new(b"b")];
            let mut hints = Hints::default();
            let mut ms = start;
            for (step, prepare) in steps {
                ms = ms.saturating_add_signed(step);
                let now = Timestamp::from_millis(ms);
                if prepare {
                    hints.prepare(now, window, keys.iter());
                }
                let middle = now.epoch();
                for epoch in middle.saturating_sub(12)..middle + 12 {
                    let reached = reach(now, window).contains(&epoch);
                    for (client, key) in keys.iter().enumerate() {
                        let found = hints.find(&hint(key, epoch), now, window, keys.iter());
                        prop_assert_eq!(found, reached.then_some(HintMatch { client, epoch }));
                    }
                }
            }
        }
    }

    #[test]
    fn a_prepared_epoch_needs_no_keys_when_it_begins_or_when_the_clock_steps_back() {
        let window = Duration::from_secs(30);
        let key = MacKey::new(b"a");
        let now = Timestamp::from_millis(1_795_331_877_123);
        let next = now.plus(Duration::from_secs(60));
        let named = |epoch| Some(HintMatch { client: 0, epoch });
        let mut hints = Hints::default();
        hints.prepare(now, window, std::iter::once(&key));
        for time in [now, next, now] {
            for epoch in reach(time, window) {
                let found = hints.find(&hint(&key, epoch), time, window, std::iter::empty());
                assert_eq!(found, named(epoch));
            }
        }
        // The next epoch adjoins the present ones, which stay in the table.
        hints.find(&hint(&key, 0), next.plus(Duration::from_secs(60)), window, std::iter::once(&key));
        let epoch = now.epoch();
        assert_eq!(hints.find(&hint(&key, epoch), now, window, std::iter::empty()), named(epoch));
    }

    #[test]
    fn the_hash_of_a_hint_is_the_hint() {
        use std::hash::BuildHasher;
        let hint: Hint = [1, 2, 3, 4, 5, 6, 7, 8];
        let hash = BuildHasherDefault::<HintHasher>::default().hash_one(hint);
        assert_eq!(hash, u64::from_ne_bytes(hint));
    }
}
