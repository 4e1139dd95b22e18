//! Limits of the iptables backend, with and without ipset: unsupported settings, and the numbers of grants and older
//! connections that it accepts as rules.

use std::collections::BTreeSet;

use super::Iptables;
use super::family::IpVersion;
use super::rules::Unload;
use crate::firewall::grant_table::WasOpen;
use crate::firewall::{Enforcement, FirewallError, GateSpec};
use crate::os::clock;
use spa_knock_core::auth::{AccessTarget, Grant};

/// The maximum number of grants that are rules: rules are matched one after the other, and rewritten with each grant.
const RULES_MAX: usize = 1024;
/// The maximum number of connections older than the gate, which are rules too.
pub(super) const OLDER_MAX: usize = 1024;

impl Iptables {
    pub(super) fn refuse(&self, gate: &GateSpec) -> Result<(), FirewallError> {
        let needs = |what| {
            Err(FirewallError::Other(format!("with iptables, {what} needs ipset\nhint: apt install ipset")))
        };
        match (self.closing, gate.enforcement, &gate.failsafe) {
            (Unload::Rules, Enforcement::Trial(_), _) => needs("a gate on trial"),
            (Unload::Rules, _, Some(_)) => needs("firewall.failsafe"),
            _ => Ok(()),
        }
    }

    /// Checks which of these lists this backend can apply, one after the other.
    pub(super) fn check_all(&self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        let now = clock::boot();
        let live = self.table.changes(now).len();
        let mut added = BTreeSet::new();
        // The grants after the preceding lists.
        let mut table = self.table.clone();
        let check = |grants: &Vec<Grant>| {
            let is_new = |grant: &&Grant| self.table.with(grant, now).before == WasOpen::Closed;
            let new: Vec<_> = grants.iter().filter(is_new).map(Grant::access).collect();
            let more = new.iter().filter(|access| !added.contains(*access)).count();
            self.check(grants, live.saturating_add(added.len()).saturating_add(more))?;
            table.admit(grants, now)?;
            table.note(grants, now);
            added.extend(new);
            Ok(())
        };
        lists.iter().map(check).collect()
    }

    /// Whether this backend can apply these grants; `live` is the number of active grants with them.
    fn check(&self, grants: &[Grant], live: usize) -> Result<(), FirewallError> {
        for grant in grants {
            if !self.families.contains(&IpVersion::of(grant.access().from)) {
                return Err(FirewallError::Other("this host has no IPv6".to_owned()));
            }
            if grant.access().link.is_some() {
                return Err(FirewallError::Other(
                    "with iptables, a link-local address cannot be bound to its interface\nhint: knock from another address, or set firewall.backend = \"nftables\"".to_owned(),
                ));
            }
            if self.closing == Unload::Rules && matches!(grant.access().target, AccessTarget::Once(_)) {
                return Err(FirewallError::Other(
                    "with iptables, `once` needs ipset\nhint: apt install ipset".to_owned(),
                ));
            }
        }
        if self.closing == Unload::Rules && live > RULES_MAX {
            return Err(FirewallError::Full);
        }
        Ok(())
    }
}
