//! Compares the grant records with the kernel: adopts the grants of the previous daemon, and reverts what another
//! program has added, removed or extended since.

use std::collections::BTreeSet;
use std::time::Duration;

use super::batch::{ElementOp, ListedElement};
use super::element::{self, Element};
use super::{Nftables, records};
use crate::firewall::FirewallError;
use crate::firewall::grant_table::GrantHolder;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// By how much an element's end in the kernel may be later than in the records.
const SLACK: Duration = Duration::from_secs(1);

/// Differences between kernel and records.
#[derive(Default)]
struct Differences {
    changes: Vec<(Element, ElementOp)>,
    foreign: usize,
    missing: usize,
}

impl Nftables {
    /// Adopts the kernel's grants into the records, before the first load.
    ///
    /// # Errors
    /// When the kernel cannot be read completely; the records may then contain a part of its grants.
    pub(super) fn adopt(&mut self, now: Steady) -> Result<(), FirewallError> {
        let mut same = true;
        for set in element::SETS {
            for listed in self.kernel.elements(set)? {
                // An element that does not have our form is not our grant; it is removed when records and kernel are
                // compared.
                same &= match element::entry(&listed.element).zip(holder(&listed)) {
                    Some((entry, holder)) => self.records.adopt(entry, holder, now),
                    None => false,
                };
            }
        }
        self.adopted = true;
        self.compared = clock::steady();
        self.reconcile = (!same).then_some(now);
        Ok(())
    }

    pub(super) fn reconcile_at(&mut self, now: Steady) -> Result<(), FirewallError> {
        if !self.adopted {
            self.adopt(now)?;
            if self.reconcile.is_none() {
                return Ok(());
            }
        }
        self.restore_hints()?;
        let differences = self.differences(now)?;
        self.kernel.transact_in_parts(&differences.changes)?;
        if differences.foreign > 0 {
            log::warn!(
                "firewall: removed set elements that this daemon did not grant: {} (was a saved ruleset loaded again?)\nhint: keep table inet spa_knock out of saved rulesets",
                differences.foreign
            );
        }
        if differences.missing > 0 {
            log::warn!(
                "firewall: added active grants that were missing from our sets: {}",
                differences.missing
            );
        }
        (self.reconcile, self.compared) = (None, clock::steady());
        Ok(())
    }

    /// Adds live hints that another program has removed.
    ///
    /// # Errors
    /// When the kernel cannot be read completely, or refuses.
    pub(super) fn restore_hints(&mut self) -> Result<(), FirewallError> {
        self.hints.as_mut().map_or(Ok(()), |hints| hints.restore(&mut self.kernel))
    }

    fn differences(&mut self, now: Steady) -> Result<Differences, FirewallError> {
        let mut differences = Differences::default();
        let mut seen = BTreeSet::new();
        for set in element::SETS {
            for listed in self.kernel.elements(set)? {
                if self.is_recorded(&listed, now) {
                    seen.insert(listed.element);
                } else {
                    differences.foreign = differences.foreign.saturating_add(1);
                    differences.changes.push((listed.element, ElementOp::Delete));
                }
            }
        }
        // Reading the sets may have taken a while.
        let now = clock::steady();
        for (element, holder) in self.records.elements(now) {
            let left = holder.end.since(now);
            let once = element::entry(&element).is_some_and(|entry| records::is_once(&entry));
            if seen.contains(&element) || once || left < SLACK {
                continue;
            }
            differences.missing = differences.missing.saturating_add(1);
            differences.changes.push((element, ElementOp::Add(left, Some(holder.comment()))));
        }
        Ok(differences)
    }

    /// Whether this element is recorded, and does not last longer in the kernel than recorded.
    fn is_recorded(&self, listed: &ListedElement, now: Steady) -> bool {
        let holder = element::entry(&listed.element).and_then(|entry| self.records.holder(&entry).cloned());
        let Some((holder, end)) = holder.zip(listed.end) else { return false };
        records::lingers(&holder, now) && end <= holder.end.plus(SLACK)
    }
}

/// The holder named in the comment of a kernel element.
fn holder(listed: &ListedElement) -> Option<GrantHolder<Steady>> {
    let (client, action) = listed.comment.as_ref()?.split_once(' ')?;
    Some(GrantHolder { client: client.parse().ok()?, action: action.parse().ok()?, end: listed.end? })
}
