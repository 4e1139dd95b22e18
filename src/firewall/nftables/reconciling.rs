//! Books and kernel brought together: what an earlier daemon granted is taken into the books, and what another program
//! has added, removed or made longer since is set right.

use std::collections::BTreeSet;
use std::time::Duration;

use super::batch::{ElementOp, ListedElement};
use super::element::{self, Element};
use super::{Nftables, books};
use crate::firewall::FirewallError;
use crate::firewall::grant_table::GrantHolder;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// How much longer than in the books an element may last in the kernel.
const SLACK: Duration = Duration::from_secs(1);
/// How many elements are changed in one transaction: its messages must fit into the socket's buffer.
const AT_A_TIME: usize = 512;

/// What was set right.
#[derive(Default)]
struct Differences {
    changes: Vec<(Element, ElementOp)>,
    foreign: usize,
    missing: usize,
}

impl Nftables {
    /// Takes into the books what the kernel has before the first load.
    ///
    /// # Errors
    /// When it cannot be read as a whole; the books may have a part of it then.
    pub(super) fn adopt(&mut self, now: Steady) -> Result<(), FirewallError> {
        let mut same = true;
        for set in element::SETS {
            for listed in self.kernel.elements(set)? {
                // What is not as we write it is not granted by us, and goes when books and kernel are compared.
                same &= match element::entry(&listed.element).zip(holder(&listed)) {
                    Some((entry, holder)) => self.books.adopt(entry, holder, now),
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
        let differences = self.differences(now)?;
        for changes in differences.changes.chunks(AT_A_TIME) {
            self.kernel.transact(changes)?;
        }
        if differences.foreign > 0 {
            log::warn!(
                "firewall: {} elements of our sets were not granted by this daemon (a saved ruleset that was loaded again?); removed\nhint: keep table inet spa_knock out of saved rulesets",
                differences.foreign
            );
        }
        if differences.missing > 0 {
            log::warn!(
                "firewall: {} active grants were missing in our sets; added again",
                differences.missing
            );
        }
        (self.reconcile, self.compared) = (None, clock::steady());
        Ok(())
    }

    fn differences(&mut self, now: Steady) -> Result<Differences, FirewallError> {
        let mut differences = Differences::default();
        let mut seen = BTreeSet::new();
        for set in element::SETS {
            for listed in self.kernel.elements(set)? {
                if self.is_in_books(&listed, now) {
                    seen.insert(listed.element);
                } else {
                    differences.foreign = differences.foreign.saturating_add(1);
                    differences.changes.push((listed.element, ElementOp::Delete));
                }
            }
        }
        // Reading may have taken a while.
        let now = clock::steady();
        for (element, holder) in self.books.elements(now) {
            let left = holder.end.since(now);
            let once = element::entry(&element).is_some_and(|entry| books::is_once(&entry));
            if seen.contains(&element) || once || left < SLACK {
                continue;
            }
            differences.missing = differences.missing.saturating_add(1);
            differences.changes.push((element, ElementOp::Add(left, Some(holder.comment()))));
        }
        Ok(differences)
    }

    /// Whether the books have this element, and for as long.
    fn is_in_books(&self, listed: &ListedElement, now: Steady) -> bool {
        let holder = element::entry(&listed.element).and_then(|entry| self.books.holder(&entry).cloned());
        let Some((holder, end)) = holder.zip(listed.end) else { return false };
        books::lingers(&holder, now) && end <= holder.end.plus(SLACK)
    }
}

/// Who holds an element of the kernel's, as its comment says.
fn holder(listed: &ListedElement) -> Option<GrantHolder<Steady>> {
    let (client, action) = listed.comment.as_ref()?.split_once(' ')?;
    Some(GrantHolder { client: client.parse().ok()?, action: action.parse().ok()?, end: listed.end? })
}
