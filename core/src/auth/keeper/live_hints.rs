//! The hints that select a key now or soon, for a filter in the kernel. They are on the wire anyway, and name no client.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::auth::watcher::hints::reach;
use crate::auth::watcher::watched_key::WatchedKey;
use crate::crypto::MacKey;
use crate::knock::Timestamp;
use crate::wire::{Hint, hint};

/// A hint, and the time from which on a filter does not need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveHint {
    /// The first 8 bytes of a knock.
    pub hint: Hint,
    /// A minute after the last fresh knock that can have it.
    pub end: Timestamp,
}

/// The epochs whose hints a filter must know at `now`: those that a fresh knock can have, and one more on either side.
/// The filter is hence right for another minute, and when the clock is corrected by less than that.
#[must_use]
pub fn hint_epochs(now: Timestamp, window: Duration) -> RangeInclusive<u64> {
    let fresh = reach(now, window);
    fresh.start().saturating_sub(1)..=fresh.end().saturating_add(1)
}

/// The hints of these keys in these epochs.
pub fn live_hints(
    keys: impl Iterator<Item = WatchedKey>,
    epochs: RangeInclusive<u64>,
    window: Duration,
) -> impl Iterator<Item = LiveHint> {
    keys.flat_map(move |key| {
        let key = MacKey::from(&key.keys.hint);
        epochs.clone().map(move |epoch| {
            let end = Timestamp::from_millis(epoch.saturating_add(2).saturating_mul(60_000));
            LiveHint { hint: hint(&key, epoch), end: end.plus(window) }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::auth::KeyLimit;
    use crate::auth::watcher::hints::Hints;
    use crate::crypto::{PairSecret, Secret};

    proptest! {
        #[test]
        fn for_a_minute_each_hint_that_the_watcher_finds_is_live_and_each_live_hint_ends(
            start in 0_u64..10_000_000,
            later in 0_u64..=60_000,
            window in 1_u64..=600,
            distance in -900_000_i64..=900_000,
        ) {
            let window = Duration::from_secs(window);
            let keys = [1, 2].map(|byte| {
                PairSecret::new(Secret::from_bytes(&[byte; 32])).keys(&"server".parse().unwrap())
            });
            let begin = Timestamp::from_millis(start);
            let watched = keys.iter().map(|keys| WatchedKey::of(keys, KeyLimit::UNLIMITED));
            let live: BTreeMap<Hint, Timestamp> = live_hints(watched, hint_epochs(begin, window), window)
                .map(|live| (live.hint, live.end))
                .collect();
            let now = Timestamp::from_millis(start + later);
            let epoch = Timestamp::from_millis(now.as_millis().saturating_add_signed(distance)).epoch();
            for keys in &keys {
                let key = MacKey::from(&keys.watcher().hint);
                let hint = hint(&key, epoch);
                let end = live.get(&hint);
                if Hints::default().find(&hint, now, window, std::iter::once(&key)).is_some() {
                    prop_assert!(end.is_some_and(|end| now <= *end), "{epoch} at {now:?}: {end:?}");
                }
                let longest = window * 2 + Duration::from_secs(240);
                prop_assert!(end.is_none_or(|end| end.distance(begin) <= longest), "{end:?}");
            }
        }
    }
}
