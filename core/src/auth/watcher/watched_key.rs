//! A key that the keeper gives to the watcher.

use crate::auth::policy::key_limit::KeyLimit;
use crate::crypto::{Fingerprint, KeySet, WatcherKeys};
use crate::knock::ProtocolVersion;

/// A key that the watcher accepts, with its limit.
pub struct WatchedKey {
    /// Identifies the key.
    pub fingerprint: Fingerprint,
    /// The watcher's keys.
    pub keys: WatcherKeys,
    /// How many knocks of the key are passed on.
    pub limit: KeyLimit,
}

impl WatchedKey {
    /// The watcher's keys of a key set, with this limit. In version 2, the limit is raised: the keeper applies it to
    /// knocks with a valid signature, and a thief of the pair secret must not use it up.
    #[must_use]
    pub fn of(keys: &KeySet, limit: KeyLimit) -> Self {
        let limit = match keys.version {
            ProtocolVersion::V1 => limit,
            ProtocolVersion::V2 => limit.at_least(KeyLimit::unverified()),
        };
        Self { fingerprint: keys.fingerprint, keys: keys.watcher(), limit }
    }
}
