//! How often clients have acted, and with which of their keys.

use super::Keeper;
use super::uses::UseCounts;
use crate::auth::policy::KeyAge;
use crate::knock::ClientName;

impl Keeper {
    /// How often each client with a limit on its uses has acted.
    #[must_use]
    pub const fn uses(&self) -> &UseCounts {
        &self.uses
    }

    /// Corrects a use count: the store of a fleet has counted otherwise.
    pub fn set_uses(&mut self, client: &ClientName, count: u64) {
        self.uses.set(client.clone(), count);
    }

    /// How often a client's previous key was used since the daemon started, in knocks that were not refused.
    #[must_use]
    pub fn previous_uses(&self, client: &ClientName) -> u64 {
        self.previous_uses.get(client).copied().unwrap_or_default()
    }

    /// The clients that have used a previous key which is still configured, and how often, by name.
    #[must_use]
    pub fn users_of_previous_keys(&self) -> Vec<(&ClientName, u64)> {
        let previous = self.policy.clients.iter().filter(|client| client.age == KeyAge::Previous);
        let uses = previous.map(|client| (&client.name, self.previous_uses(&client.name)));
        let mut users: Vec<_> = uses.filter(|(_, uses)| *uses > 0).collect();
        users.sort();
        users
    }
}
