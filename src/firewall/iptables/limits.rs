//! What iptables cannot do, with and without ipset, and how many grants and older connections it takes as rules.

use std::collections::BTreeSet;

use super::Iptables;
use super::family::IpVersion;
use super::rules::Unload;
use crate::firewall::grant_table::WasOpen;
use crate::firewall::{Enforcement, FirewallError, GateSpec};
use crate::os::clock;
use spa_knock_core::auth::{AccessTarget, Grant};

/// Rules are gone through one after the other, and written anew with each grant.
const RULES_MAX: usize = 1024;
/// Connections older than the gate are rules too.
pub(super) const OLDER_MAX: usize = 1024;

impl Iptables {
    pub(super) fn refuse(&self, gate: &GateSpec) -> Result<(), FirewallError> {
        let needs = |what| {
            Err(FirewallError::Other(format!("{what} needs ipset with iptables\nhint: apt install ipset")))
        };
        match (self.closing, gate.enforcement, &gate.failsafe) {
            (Unload::Rules, Enforcement::Trial(_), _) => needs("a gate on trial"),
            (Unload::Rules, _, Some(_)) => needs("firewall.failsafe"),
            _ => Ok(()),
        }
    }

    /// Which of these lists this backend can make, one after the other.
    pub(super) fn check_all(&self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        let now = clock::boot();
        let live = self.held.changes(now).len();
        let mut added = BTreeSet::new();
        // What a client holds after the lists before.
        let mut held = self.held.clone();
        let check = |grants: &Vec<Grant>| {
            let is_new = |grant: &&Grant| self.held.with(grant, now).before == WasOpen::Closed;
            let new: Vec<_> = grants.iter().filter(is_new).map(Grant::access).collect();
            let more = new.iter().filter(|access| !added.contains(*access)).count();
            self.check(grants, live.saturating_add(added.len()).saturating_add(more))?;
            held.admit(grants, now)?;
            held.note(grants, now);
            added.extend(new);
            Ok(())
        };
        lists.iter().map(check).collect()
    }

    /// Whether this backend can make these grants, of which there would be so many then.
    fn check(&self, grants: &[Grant], live: usize) -> Result<(), FirewallError> {
        for grant in grants {
            if !self.families.contains(&IpVersion::of(grant.access().from)) {
                return Err(FirewallError::Other("this host has no IPv6".to_owned()));
            }
            if grant.access().link.is_some() {
                return Err(FirewallError::Other(
                    "a link-local address cannot be bound to its interface with iptables\nhint: knock from another address, or firewall.backend = \"nftables\"".to_owned(),
                ));
            }
            if self.closing == Unload::Rules && matches!(grant.access().target, AccessTarget::Once(_)) {
                return Err(FirewallError::Other(
                    "`once` needs ipset with iptables\nhint: apt install ipset".to_owned(),
                ));
            }
        }
        if self.closing == Unload::Rules && live > RULES_MAX {
            return Err(FirewallError::Full);
        }
        Ok(())
    }
}
