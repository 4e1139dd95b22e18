//! Whether a client may hold more grants. No client holds more than its limit, and none fills a set for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{GrantTable, PointInTime, shelf};
use crate::firewall::FirewallError;
use crate::firewall::kind::GrantKind;
use spa_knock_core::auth::{Access, Grant};
use spa_knock_core::knock::ClientName;

/// A full set is looked through for ends that have passed at most this often.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
/// The last eighth of each set is for clients that hold no more than this.
const RESERVE_SHARE: usize = 16;

impl<T: PointInTime> GrantTable<T> {
    /// Whether its client may hold these grants of one knock besides what it holds at `now`, and they have room.
    ///
    /// # Errors
    /// [`FirewallError::TooMany`] when they are more than the client may hold, [`FirewallError::Full`] when only the
    /// reserve of a set is left, which is for clients that hold little.
    pub(in crate::firewall) fn admit(&mut self, grants: &[Grant], now: T) -> Result<(), FirewallError> {
        let Some(first) = grants.first() else { return Ok(()) };
        let client = first.client();
        let mut coming: Vec<Access> = grants.iter().map(Grant::access).collect();
        coming.retain(|access| !self.holds(client, access, now));
        coming.sort_unstable();
        coming.dedup();
        let total =
            |held: &Self| held.clients.get(client).map_or(0, BTreeSet::len).saturating_add(coming.len());
        if coming.is_empty() {
            return Ok(());
        }
        // What has ended is looked for only where it would make a difference: a client may hold thousands.
        if total(self) > limit_of(first) {
            self.drop_ended_of(client, now);
            if let Some(limit) = first.limit().filter(|_| total(self) > limit_of(first)) {
                return Err(FirewallError::TooMany(limit));
            }
        }
        if total(self) <= RESERVE_SHARE || self.has_room(&coming, now) {
            return Ok(());
        }
        self.drop_ended_of(client, now);
        if total(self) > RESERVE_SHARE { Err(FirewallError::Full) } else { Ok(()) }
    }

    /// Whether the client holds this passage at `now`.
    fn holds(&self, client: &ClientName, access: &Access, now: T) -> bool {
        let holders = self.grants.get(access).into_iter().flatten();
        holders.into_iter().any(|holder| holder.client == *client && holder.end > now)
    }

    fn drop_ended_of(&mut self, client: &ClientName, now: T) {
        if let Some(mut own) = self.clients.remove(client) {
            own.retain(|access| self.holds(client, access, now));
            self.clients.insert(client.clone(), own);
        }
    }

    /// Whether the sets of these have room outside their reserve.
    fn has_room(&mut self, coming: &[Access], now: T) -> bool {
        let mut more: BTreeMap<(GrantKind, bool), usize> = BTreeMap::new();
        for access in coming.iter().filter(|access| !self.grants.contains_key(access)) {
            let count = more.entry(shelf(access)).or_default();
            *count = count.saturating_add(1);
        }
        let fits = |held: &Self| {
            more.iter().all(|(shelf, more)| {
                held.filled.get(shelf).copied().unwrap_or_default().saturating_add(*more) <= shelf.0.room()
            })
        };
        if !fits(self) && self.pruned.is_none_or(|pruned| now >= pruned.plus(PRUNE_EVERY)) {
            self.prune(now);
        }
        fits(self)
    }
}

/// How many passages the client of this grant may hold.
fn limit_of(grant: &Grant) -> usize {
    grant.limit().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
