//! How often clients have acted that may do so only so many times in all.

use std::collections::{BTreeMap, BTreeSet};

use crate::knock::ClientName;

/// The counts, by name: a client has no more for having two keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UseCounts(BTreeMap<ClientName, u64>);

impl UseCounts {
    /// How often a client has acted.
    #[must_use]
    pub fn of(&self, client: &ClientName) -> u64 {
        self.0.get(client).copied().unwrap_or_default()
    }

    /// Sets a count.
    pub fn set(&mut self, client: ClientName, count: u64) {
        self.0.insert(client, count);
    }

    /// One more.
    pub fn count(&mut self, client: &ClientName) {
        let count = self.0.entry(client.clone()).or_default();
        *count = count.saturating_add(1);
    }

    /// Forgets a client; another one of its name begins anew.
    pub fn forget(&mut self, client: &ClientName) {
        self.0.remove(client);
    }

    /// Forgets all but these.
    pub fn keep_only(&mut self, clients: &BTreeSet<&ClientName>) {
        self.0.retain(|name, _| clients.contains(name));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ClientName, u64)> {
        self.0.iter().map(|(name, count)| (name, *count))
    }
}
