//! The set of live hints, by which the kernel drops datagrams to the knock port that no client can have made. A copy is
//! kept here, so that hints that another program has removed come back.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ALWAYS_COMPARED_MAX;
use super::batch::ElementOp;
use super::element::Element;
use super::kernel::Kernel;
use crate::firewall::FirewallError;
use crate::os::clock;
use spa_knock_core::auth::LiveHint;
use spa_knock_core::knock::Steady;
use spa_knock_core::wire::Hint;

/// A hint that ends this soon is not restored.
const SLACK: Duration = Duration::from_secs(1);

/// The hints in the kernel.
#[derive(Default)]
pub(super) struct HintSet {
    /// When each hint ends.
    live: BTreeMap<Hint, Steady>,
    /// Whether another program may have removed some.
    is_doubtful: bool,
    /// The epochs whose hints they are; none since the set was loaded, or if they are uncertain.
    epochs: Option<RangeInclusive<u64>>,
}

impl HintSet {
    /// Makes these the hints in the kernel, those of all keys in these epochs. An element has no comment: it names no client.
    ///
    /// # Errors
    /// When the kernel refuses. The hints are then uncertain, until the next call.
    pub(super) fn replace(
        &mut self,
        kernel: &mut Kernel,
        hints: &[LiveHint],
        epochs: RangeInclusive<u64>,
    ) -> Result<(), FirewallError> {
        self.epochs = None;
        let (now, wall) = (clock::steady(), clock::wall());
        let mut before = std::mem::take(&mut self.live);
        let mut changes = Vec::new();
        for LiveHint { hint, end } in hints.iter().filter(|hint| hint.end > wall) {
            let left = end.distance(wall);
            let end = now.plus(left);
            // The end of a hint moves only when the clock is set.
            let is_in_kernel = before.remove(hint).is_some_and(|known| distance(known, end) < SLACK);
            if self.live.insert(*hint, end).is_none() && !is_in_kernel {
                changes.push((element(*hint), ElementOp::Renew(left, None)));
            }
        }
        let ended = before.into_iter().filter(|(_, end)| *end > now);
        changes.extend(ended.map(|(hint, _)| (element(hint), ElementOp::Delete)));
        kernel.transact_in_parts(&changes)?;
        self.epochs = Some(epochs);
        Ok(())
    }

    /// Whether these are the hints of other epochs.
    pub(super) fn lacks(&self, epochs: &RangeInclusive<u64>) -> bool {
        self.epochs.as_ref() != Some(epochs)
    }

    /// Adds hints that are missing in the kernel. Others in the kernel do no harm: what passes by them, the watcher drops.
    ///
    /// # Errors
    /// When the kernel cannot be read completely, or refuses.
    pub(super) fn restore(&mut self, kernel: &mut Kernel) -> Result<(), FirewallError> {
        if self.live.is_empty() || (!self.is_doubtful && self.live.len() > ALWAYS_COMPARED_MAX) {
            return Ok(());
        }
        let mut missing = self.live.clone();
        for listed in kernel.elements(element(Hint::default()).set)? {
            if let Ok(hint) = Hint::try_from(listed.element.key) {
                missing.remove(&hint);
            }
        }
        let now = clock::steady();
        let missing = missing.into_iter().map(|(hint, end)| (hint, end.since(now)));
        let changes = missing.filter(|(_, left)| *left > SLACK);
        let changes: Vec<_> =
            changes.map(|(hint, left)| (element(hint), ElementOp::Renew(left, None))).collect();
        kernel.transact_in_parts(&changes)?;
        self.is_doubtful = false;
        Ok(())
    }

    /// Compares all of them at the next check.
    pub(super) const fn doubt(&mut self) {
        self.is_doubtful = true;
    }
}

fn distance(one: Steady, other: Steady) -> Duration {
    one.since(other).max(other.since(one))
}

fn element(hint: Hint) -> Element {
    Element { set: b"hints\0", key: hint.to_vec(), last_key: None, value: None }
}
