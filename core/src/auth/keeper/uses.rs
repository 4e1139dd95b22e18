//! The use counts of clients with a limit on their uses.

use std::collections::{BTreeMap, BTreeSet};

use crate::knock::ClientName;

/// The counts by client name, so that a second key gives a client no additional uses.
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

    /// Counts one use.
    pub fn count(&mut self, client: &ClientName) {
        let count = self.0.entry(client.clone()).or_default();
        *count = count.saturating_add(1);
    }

    /// Forgets a client; a new client with its name starts at 0.
    pub fn forget(&mut self, client: &ClientName) {
        self.0.remove(client);
    }

    /// Forgets all clients except these.
    pub fn keep_only(&mut self, clients: &BTreeSet<&ClientName>) {
        self.0.retain(|name, _| clients.contains(name));
    }

    /// Iterates over all counts.
    pub fn iter(&self) -> impl Iterator<Item = (&ClientName, u64)> {
        self.0.iter().map(|(name, count)| (name, *count))
    }
}
