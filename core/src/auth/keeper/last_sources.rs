//! From where the clients with an SSH key knocked last: knocks from there have tokens of their own ([`super::signature`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::crypto::Fingerprint;
use crate::knock::Timestamp;

/// From where the last authorized knock of a key came, and its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSource {
    /// The timestamp of the knock.
    pub timestamp: Timestamp,
    /// The sender's address.
    pub address: IpAddr,
}

/// The last source of each key of version 2.
#[derive(Debug, Clone, Default)]
pub struct LastSources(BTreeMap<Fingerprint, LastSource>);

impl LastSources {
    /// Replaces the source of a key.
    pub fn store(&mut self, key: Fingerprint, source: LastSource) {
        self.0.insert(key, source);
    }

    /// The source of a key.
    #[must_use]
    pub fn of(&self, key: Fingerprint) -> Option<LastSource> {
        self.0.get(&key).copied()
    }

    /// All keys with their sources.
    pub fn iter(&self) -> impl Iterator<Item = (Fingerprint, LastSource)> {
        self.0.iter().map(|(&key, &source)| (key, source))
    }

    /// Removes all keys except those for which `keep` is true.
    pub(super) fn keep_only(&mut self, keep: impl Fn(Fingerprint) -> bool) {
        self.0.retain(|key, _| keep(*key));
    }
}
