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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_by_client_until_it_is_forgotten() {
        let [laptop, phone]: [ClientName; 2] = ["laptop", "phone"].map(|name| name.parse().unwrap());
        let mut uses = UseCounts::default();
        assert_eq!(uses.of(&laptop), 0);
        uses.count(&laptop);
        uses.count(&laptop);
        uses.set(phone.clone(), 7);
        uses.count(&phone);
        assert_eq!(uses.iter().collect::<Vec<_>>(), [(&laptop, 2), (&phone, 8)]);
        uses.keep_only(&BTreeSet::from([&laptop, &phone]));
        uses.forget(&phone);
        assert_eq!((uses.of(&laptop), uses.of(&phone)), (2, 0));
        uses.keep_only(&BTreeSet::from([&phone]));
        assert_eq!(uses, UseCounts::default());
    }
}
