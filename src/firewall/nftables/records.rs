//! Records who holds which grant, and which elements the kernel has for it. A change is drafted, sent to the kernel,
//! and then kept; or dropped if the kernel refuses it.

use super::HeldElement;
use super::batch::ElementOp;
use super::element::{self, Element, ElementEntry};
use super::plane::{Interval, Patch, Plane};
use crate::firewall::grant_table::{GrantHolder, GrantTable, LINGER};
use crate::firewall::kind::GrantKind;
use crate::firewall::{ActiveGrant, FirewallError};
use spa_knock_core::auth::{Access, AccessTarget, Grant};
use spa_knock_core::knock::Steady;

/// How many intervals one knock may be split into. It is split by the intervals that overlap it, so only knocks from
/// nested prefixes come near this limit.
const INTERVALS_MAX: usize = 4_096;

/// The grants, and the kernel's intervals.
#[derive(Default)]
pub(super) struct GrantRecords {
    grants: GrantTable<Steady>,
    plane: Plane,
}

/// A change that has not been sent to the kernel yet.
#[derive(Default)]
pub(super) struct Draft {
    /// Elements to change; deletions come first.
    pub(super) elements: Vec<(Element, ElementOp)>,
    patch: Patch,
    /// Accesses that are replaced by another one, such as forwards with another target.
    replaced: Vec<Access>,
}

impl GrantRecords {
    /// Drafts the change that opens the grants of one knock.
    ///
    /// # Errors
    /// When the client would exceed its limit, or there is no room for the grants.
    pub(super) fn draft_grant(&mut self, grants: &[Grant], now: Steady) -> Result<Draft, FirewallError> {
        self.grants.admit(grants, now)?;
        let mut draft = Draft::default();
        for grant in grants {
            self.open(grant, now, &mut draft);
        }
        if draft.patch.added_count() > INTERVALS_MAX {
            self.plane.revert(draft.patch);
            return Err(FirewallError::Overlap);
        }
        self.finish(&mut draft, now);
        Ok(draft)
    }

    /// Keeps a drafted grant after the kernel has accepted it.
    pub(super) fn keep_grant(&mut self, draft: Draft, grants: &[Grant], now: Steady) {
        for replaced in &draft.replaced {
            self.grants.remove_access(replaced);
        }
        self.grants.note(grants, now);
        if self.plane.count() > self.grants.count().saturating_mul(2) {
            self.plane.prune(now);
        }
    }

    /// Drops a draft that the kernel has refused.
    pub(super) fn drop(&mut self, draft: Draft) {
        self.plane.revert(draft.patch);
    }

    /// Drafts the change that revokes these grants; also returns the grants that end.
    pub(super) fn draft_close(
        &mut self,
        which: &dyn Fn(&ActiveGrant) -> bool,
        now: Steady,
    ) -> (Draft, Vec<ActiveGrant>) {
        let (changes, closed) = self.grants.without(which, now);
        let mut draft = Draft::default();
        for change in changes.iter().filter(|change| !GrantKind::of(&change.access).is_interval()) {
            let Some(element) = element::of(&change.access) else { continue };
            let op = match &change.holder {
                None => ElementOp::Delete,
                Some(holder) => ElementOp::Renew(holder.end.since(now), Some(holder.comment())),
            };
            draft.elements.push((element, op));
        }
        self.close_intervals(&closed, which, now, &mut draft);
        self.finish(&mut draft, now);
        (draft, closed)
    }

    /// Keeps a drafted revocation after the kernel has accepted it.
    pub(super) fn keep_close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool, now: Steady) {
        self.grants.remove(which, now);
    }

    /// Adopts an element of the kernel into the records. Returns whether the kernel may keep that element: the rest of
    /// an interval can be a single port, which belongs into another set.
    pub(super) fn adopt(&mut self, entry: ElementEntry, holder: GrantHolder<Steady>, now: Steady) -> bool {
        let (area, rectangle) = match entry {
            ElementEntry::Access(access) => {
                self.grants.hold(access, holder);
                return true;
            }
            ElementEntry::Interval(area, rectangle) => (area, rectangle),
        };
        let accesses = element::accesses(area, &rectangle);
        let interval = |access| Interval::of(access, holder.clone());
        let same =
            accesses.iter().all(|access| interval(access).is_some_and(|interval| interval.area == area));
        let same = same && self.plane.adopt(Interval { area, rectangle, holder: holder.clone() });
        if !same {
            for interval in accesses.iter().filter_map(interval) {
                self.plane.open(&interval, now, &mut Patch::default());
            }
        }
        for access in accesses {
            self.grants.hold(access, holder.clone());
        }
        same
    }

    /// The recorded holder of what this element opens.
    pub(super) fn holder(&self, entry: &ElementEntry) -> Option<&GrantHolder<Steady>> {
        match entry {
            ElementEntry::Access(access) => self.grants.longest(access),
            ElementEntry::Interval(area, rectangle) => {
                self.plane.get(*area, rectangle).map(|interval| &interval.holder)
            }
        }
    }

    /// All elements that the kernel should have at `now`, with their holders.
    pub(super) fn elements(&self, now: Steady) -> impl Iterator<Item = HeldElement> {
        let changes = self.grants.changes(now).into_iter().filter_map(|change| {
            let interval = GrantKind::of(&change.access).is_interval();
            Some((element::of(&change.access).filter(|_| !interval)?, change.holder?))
        });
        let intervals =
            self.plane.live(now).map(|interval| (element::of_interval(interval), interval.holder.clone()));
        changes.chain(intervals)
    }

    /// Number of accesses and intervals.
    pub(super) fn count(&self) -> usize {
        self.grants.count().saturating_add(self.plane.count())
    }

    /// All active grants, once for each holder.
    pub(super) fn live(&self, now: Steady) -> Vec<ActiveGrant> {
        self.grants.live(now)
    }

    fn open(&mut self, grant: &Grant, now: Steady, draft: &mut Draft) {
        let access = grant.access();
        if let Some(interval) = Interval::of(&access, GrantHolder::of(grant, now)) {
            return self.plane.open(&interval, now, &mut draft.patch);
        }
        let (Some(element), Some(holder)) = (element::of(&access), self.grants.with(grant, now).holder)
        else {
            return;
        };
        // A port leads one address to one target, and packets get one source address: what was requested last.
        let is_open = self.grants.longest(&access).is_some_and(|holder| holder.end > now);
        for conflicting in self.grants.conflicting(&access, now) {
            if !is_open {
                draft.elements.extend(element::of(&conflicting).map(|element| (element, ElementOp::Delete)));
            }
            draft.replaced.push(conflicting);
        }
        let left = holder.end.since(now);
        draft.elements.push((element, ElementOp::Renew(left, Some(holder.comment()))));
    }

    fn close_intervals(
        &mut self,
        closed: &[ActiveGrant],
        which: &dyn Fn(&ActiveGrant) -> bool,
        now: Steady,
        draft: &mut Draft,
    ) {
        for live in closed {
            let holder = GrantHolder {
                client: live.client.clone(),
                action: live.action.clone(),
                end: now.plus(live.left),
            };
            let Some(removed) = Interval::of(&live.access, holder) else { continue };
            self.plane.close(&removed, now, &mut draft.patch);
            // Grants of others there, and other grants of this client, are opened again in the same transaction.
            for (access, holder) in self.grants.overlapping(&live.access, now) {
                if which(&holder.live(*access, now)) {
                    continue;
                }
                if let Some(interval) = Interval::of(access, holder.clone()) {
                    self.plane.open_within(&interval, &removed, now, &mut draft.patch);
                }
            }
        }
    }

    /// Adds the elements that the patch deletes and adds to the draft.
    fn finish(&self, draft: &mut Draft, now: Steady) {
        let (removed, added) = self.plane.changes(&draft.patch);
        let removed = removed.map(|interval| (element::of_interval(interval), ElementOp::Delete));
        let added = added.map(|interval| {
            let GrantHolder { end, .. } = &interval.holder;
            let left = end.since(now);
            (element::of_interval(interval), ElementOp::Add(left, Some(interval.holder.comment())))
        });
        let elements = std::mem::take(&mut draft.elements);
        draft.elements = removed.chain(added).chain(elements).collect();
    }
}

/// Whether an element may still be in the kernel at `now`.
pub(super) fn lingers(holder: &GrantHolder<Steady>, now: Steady) -> bool {
    holder.end.plus(LINGER) > now
}

/// Whether the entry is for one connection only: it may have been used already.
pub(super) const fn is_once(entry: &ElementEntry) -> bool {
    matches!(entry, ElementEntry::Access(Access { target: AccessTarget::Once(_), .. }))
}

#[cfg(test)]
mod tests;
