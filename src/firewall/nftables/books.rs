//! Who holds what, and which elements the kernel has for it. A change is drafted first, put to the kernel, and then
//! kept, or dropped if the kernel did not take it.

use super::HeldElement;
use super::batch::ElementOp;
use super::element::{self, Element, ElementEntry};
use super::plane::{Interval, Patch, Plane};
use crate::firewall::grant_table::{GrantHolder, GrantTable, LINGER};
use crate::firewall::kind::GrantKind;
use crate::firewall::{ActiveGrant, FirewallError};
use spa_knock_core::auth::{Access, AccessTarget, Grant};
use spa_knock_core::knock::Steady;

/// How many intervals one knock may be cut into: as many as overlap it, so that only knocks from prefixes within
/// prefixes come near it.
const PIECES_MAX: usize = 4_096;

/// The books.
#[derive(Default)]
pub(super) struct Books {
    held: GrantTable<Steady>,
    plane: Plane,
}

/// A change that the kernel has not taken yet.
#[derive(Default)]
pub(super) struct Draft {
    /// What to tell the kernel; what goes is in front.
    pub(super) elements: Vec<(Element, ElementOp)>,
    patch: Patch,
    /// Forwards that another target takes the place of.
    replaced: Vec<Access>,
}

impl Books {
    /// What must change so that these are open; they are of one knock.
    ///
    /// # Errors
    /// When the client may not hold so many, or there is no room for them.
    pub(super) fn draft_grant(&mut self, grants: &[Grant], now: Steady) -> Result<Draft, FirewallError> {
        self.held.admit(grants, now)?;
        let mut draft = Draft::default();
        for grant in grants {
            self.open(grant, now, &mut draft);
        }
        if draft.patch.coming() > PIECES_MAX {
            self.plane.revert(draft.patch);
            return Err(FirewallError::Overlap);
        }
        self.finish(&mut draft, now);
        Ok(draft)
    }

    /// The kernel has taken it.
    pub(super) fn keep_grant(&mut self, draft: Draft, grants: &[Grant], now: Steady) {
        for replaced in &draft.replaced {
            self.held.forget_passage(replaced);
        }
        self.held.note(grants, now);
        if self.plane.count() > self.held.count().saturating_mul(2) {
            self.plane.prune(now);
        }
    }

    /// The kernel has not taken it.
    pub(super) fn drop(&mut self, draft: Draft) {
        self.plane.revert(draft.patch);
    }

    /// What must change so that these are held no more, and what that ends.
    pub(super) fn draft_close(
        &mut self,
        which: &dyn Fn(&ActiveGrant) -> bool,
        now: Steady,
    ) -> (Draft, Vec<ActiveGrant>) {
        let (changes, closed) = self.held.without(which, now);
        let mut draft = Draft::default();
        for change in changes.iter().filter(|change| !GrantKind::of(&change.access).is_interval()) {
            let Some(element) = element::of(&change.access) else { continue };
            let fate = match &change.holder {
                None => ElementOp::Delete,
                Some(holder) => ElementOp::Renew(holder.end.since(now), Some(holder.comment())),
            };
            draft.elements.push((element, fate));
        }
        self.close_intervals(&closed, which, now, &mut draft);
        self.finish(&mut draft, now);
        (draft, closed)
    }

    /// The kernel has taken it.
    pub(super) fn keep_close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool, now: Steady) {
        self.held.forget(which, now);
    }

    /// Takes an element of the kernel's into the books. Whether it stays that element: the rest of an interval can be a
    /// single port, and then is another one from now on.
    pub(super) fn adopt(&mut self, entry: ElementEntry, holder: GrantHolder<Steady>, now: Steady) -> bool {
        let (area, rectangle) = match entry {
            ElementEntry::Passage(access) => {
                self.held.hold(access, holder);
                return true;
            }
            ElementEntry::Interval(area, rectangle) => (area, rectangle),
        };
        let accesses = element::accesses(area, &rectangle);
        let piece = |access| Interval::of(access, holder.clone());
        let same = accesses.iter().all(|access| piece(access).is_some_and(|piece| piece.area == area));
        let same = same && self.plane.adopt(Interval { area, rectangle, holder: holder.clone() });
        if !same {
            for piece in accesses.iter().filter_map(piece) {
                self.plane.open(&piece, now, &mut Patch::default());
            }
        }
        for access in accesses {
            self.held.hold(access, holder.clone());
        }
        same
    }

    /// Who holds, as far as the books know, what this element opens.
    pub(super) fn holder(&self, entry: &ElementEntry) -> Option<&GrantHolder<Steady>> {
        match entry {
            ElementEntry::Passage(access) => self.held.longest(access),
            ElementEntry::Interval(area, rectangle) => {
                self.plane.get(*area, rectangle).map(|piece| &piece.holder)
            }
        }
    }

    /// All elements that the kernel should have at `now`, and for whom.
    pub(super) fn elements(&self, now: Steady) -> impl Iterator<Item = HeldElement> {
        let changes = self.held.changes(now).into_iter().filter_map(|change| {
            let interval = GrantKind::of(&change.access).is_interval();
            Some((element::of(&change.access).filter(|_| !interval)?, change.holder?))
        });
        let pieces = self.plane.live(now).map(|piece| (element::of_piece(piece), piece.holder.clone()));
        changes.chain(pieces)
    }

    /// How many passages and pieces there are.
    pub(super) fn count(&self) -> usize {
        self.held.count().saturating_add(self.plane.count())
    }

    /// All that is live, once for each who holds it.
    pub(super) fn live(&self, now: Steady) -> Vec<ActiveGrant> {
        self.held.live(now)
    }

    fn open(&mut self, grant: &Grant, now: Steady, draft: &mut Draft) {
        let access = grant.access();
        if let Some(piece) = Interval::of(&access, GrantHolder::of(grant, now)) {
            return self.plane.open(&piece, now, &mut draft.patch);
        }
        let (Some(element), Some(holder)) = (element::of(&access), self.held.with(grant, now).holder) else {
            return;
        };
        // One port of one address leads to one target: the one that was asked for last.
        let is_open = self.held.longest(&access).is_some_and(|holder| holder.end > now);
        for rival in self.held.rivals(&access, now) {
            if !is_open {
                draft.elements.extend(element::of(&rival).map(|element| (element, ElementOp::Delete)));
            }
            draft.replaced.push(rival);
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
            let Some(gone) = Interval::of(&live.access, holder) else { continue };
            self.plane.close(&gone, now, &mut draft.patch);
            // What others hold there, and what it holds there besides, is open again within the same transaction.
            for (access, holder) in self.held.near(&live.access, now) {
                if which(&holder.live(*access, now)) {
                    continue;
                }
                if let Some(piece) = Interval::of(access, holder.clone()) {
                    self.plane.open_within(&piece, &gone, now, &mut draft.patch);
                }
            }
        }
    }

    /// Writes down which elements the patch is about.
    fn finish(&self, draft: &mut Draft, now: Steady) {
        let (gone, come) = self.plane.changes(&draft.patch);
        let gone = gone.map(|piece| (element::of_piece(piece), ElementOp::Delete));
        let come = come.map(|piece| {
            let GrantHolder { end, .. } = &piece.holder;
            let left = end.since(now);
            (element::of_piece(piece), ElementOp::Add(left, Some(piece.holder.comment())))
        });
        let elements = std::mem::take(&mut draft.elements);
        draft.elements = gone.chain(come).chain(elements).collect();
    }
}

/// Whether something of an element may still be in the kernel at `now`.
pub(super) fn lingers(holder: &GrantHolder<Steady>, now: Steady) -> bool {
    holder.end.plus(LINGER) > now
}

/// Whether who knocked can only have been let in once by this: whether it has been used is not known.
pub(super) const fn is_once(entry: &ElementEntry) -> bool {
    matches!(entry, ElementEntry::Passage(Access { target: AccessTarget::Once(_), .. }))
}

#[cfg(test)]
mod tests;
