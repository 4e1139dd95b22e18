//! The signature counters of FIDO devices: a counter that falls is a cloned key, or a device that was reset. Replay
//! protection does not depend on them.

use std::collections::BTreeMap;

use crate::crypto::Fingerprint;
use crate::crypto::ssh::SshFingerprint;
use crate::knock::Timestamp;

/// Identifies the public key of a counter among those that a client has had.
pub type CounterKey = [u8; 3];

/// The counter in a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FidoCounter {
    /// The public key that signed it.
    pub key: CounterKey,
    /// The device's counter.
    pub value: u32,
}

/// Error: the counter is lower than in an earlier knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterFell;

impl FidoCounter {
    /// The counter of a public key.
    #[must_use]
    pub const fn of(key: SshFingerprint, value: u32) -> Self {
        let [a, b, c, ..] = *key.as_bytes();
        Self { key: [a, b, c], value }
    }
}

/// For each pair secret and public key: timestamp and counter of the accepted knock with the greatest timestamp.
#[derive(Debug, Clone, Default)]
pub(in crate::auth) struct FidoCounters(BTreeMap<(Fingerprint, CounterKey), (Timestamp, u32)>);

impl FidoCounters {
    /// Checks that the counter has not fallen. Knocks that are older than the one that set it are not compared.
    pub(in crate::auth) fn check(
        &self,
        key: Fingerprint,
        timestamp: Timestamp,
        counter: FidoCounter,
    ) -> Result<(), CounterFell> {
        match self.0.get(&(key, counter.key)) {
            Some((last, value)) if timestamp >= *last && counter.value < *value => Err(CounterFell),
            _ => Ok(()),
        }
    }

    /// Stores the counter of an accepted knock. The order of calls does not matter.
    pub(in crate::auth) fn store(&mut self, key: Fingerprint, timestamp: Timestamp, counter: FidoCounter) {
        let last = self.0.entry((key, counter.key)).or_default();
        *last = (timestamp, counter.value).max(*last);
    }

    pub(in crate::auth) fn keep_only(&mut self, keep: impl Fn(Fingerprint) -> bool) {
        self.0.retain(|(key, _), _| keep(*key));
    }

    pub(in crate::auth) fn iter(&self) -> impl Iterator<Item = (Fingerprint, Timestamp, FidoCounter)> {
        self.0.iter().map(|(&(fingerprint, key), &(timestamp, value))| {
            (fingerprint, timestamp, FidoCounter { key, value })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_counters_agree_with_a_history_of_all_accepted_knocks(
            knocks in proptest::collection::vec((0_u8..2, 0_u8..2, 0_u64..20, 0_u32..6), 0..100),
        ) {
            let mut counters = FidoCounters::default();
            let mut history: Vec<(u8, u8, u64, u32)> = Vec::new();
            for (client, key, timestamp, value) in knocks {
                // The oracle searches the whole history for the latest knock; of several, the last one.
                let same = history.iter().filter(|&&(c, k, ..)| (c, k) == (client, key));
                let latest = same.max_by_key(|&&(_, _, timestamp, _)| timestamp);
                let fell = latest.is_some_and(|&(.., last, counter)| timestamp >= last && value < counter);
                let fingerprint = Fingerprint::from_bytes([client; 8]);
                let (at, counter) = (Timestamp::from_millis(timestamp), FidoCounter { key: [key; 3], value });
                prop_assert_eq!(counters.check(fingerprint, at, counter).is_err(), fell);
                if !fell {
                    counters.store(fingerprint, at, counter);
                    history.push((client, key, timestamp, value));
                }
            }
            let mut restored = FidoCounters::default();
            for &(client, key, timestamp, value) in history.iter().rev() {
                let counter = FidoCounter { key: [key; 3], value };
                restored.store(Fingerprint::from_bytes([client; 8]), Timestamp::from_millis(timestamp), counter);
            }
            prop_assert_eq!(restored.0, counters.0, "the order does not matter");
        }
    }
}
