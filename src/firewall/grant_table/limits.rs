//! Limits how many grants a client may hold. No client exceeds its limit, and no client fills a set for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{GrantTable, PointInTime, set_key};
use crate::firewall::FirewallError;
use crate::firewall::kind::GrantKind;
use spa_knock_core::auth::{Access, Grant};
use spa_knock_core::knock::ClientName;

/// How often at most a full set is searched for expired grants.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
/// The last eighth of each set is reserved for clients that hold at most this many accesses.
const RESERVE_SHARE: usize = 16;

impl<T: PointInTime> GrantTable<T> {
    /// Checks that the client may hold these grants of one knock in addition to what it holds at `now`, and that its
    /// sets have room for them.
    ///
    /// # Errors
    /// [`FirewallError::TooMany`] when the client would exceed its limit, [`FirewallError::Full`] when only the reserve
    /// of a set is left, which is for clients that hold little.
    pub(in crate::firewall) fn admit(&mut self, grants: &[Grant], now: T) -> Result<(), FirewallError> {
        let Some(first) = grants.first() else { return Ok(()) };
        let client = first.client();
        let mut added: Vec<Access> = grants.iter().map(Grant::access).collect();
        added.retain(|access| !self.holds(client, access, now));
        added.sort_unstable();
        added.dedup();
        let total =
            |table: &Self| table.clients.get(client).map_or(0, BTreeSet::len).saturating_add(added.len());
        if added.is_empty() {
            return Ok(());
        }
        // Expired grants are searched only where they would make a difference: a client may hold thousands.
        if total(self) > limit_of(first) {
            self.drop_ended_of(client, now);
            if let Some(limit) = first.limit().filter(|_| total(self) > limit_of(first)) {
                return Err(FirewallError::TooMany(limit));
            }
        }
        if total(self) <= RESERVE_SHARE || self.has_room(&added, now) {
            return Ok(());
        }
        self.drop_ended_of(client, now);
        if total(self) > RESERVE_SHARE { Err(FirewallError::Full) } else { Ok(()) }
    }

    /// Whether the client holds this access at `now`.
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

    /// Whether the sets have room for these accesses outside their reserve.
    fn has_room(&mut self, added: &[Access], now: T) -> bool {
        let mut more: BTreeMap<(GrantKind, bool), usize> = BTreeMap::new();
        for access in added.iter().filter(|access| !self.grants.contains_key(access)) {
            let count = more.entry(set_key(access)).or_default();
            *count = count.saturating_add(1);
        }
        let fits = |table: &Self| {
            more.iter().all(|(key, more)| {
                table.filled.get(key).copied().unwrap_or_default().saturating_add(*more) <= key.0.room()
            })
        };
        if !fits(self) && self.pruned.is_none_or(|pruned| now >= pruned.plus(PRUNE_EVERY)) {
            self.prune(now);
        }
        fits(self)
    }
}

/// How many accesses the client of this grant may hold.
fn limit_of(grant: &Grant) -> usize {
    grant.limit().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
