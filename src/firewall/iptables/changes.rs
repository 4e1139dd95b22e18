//! Puts a change of the grants into effect: in the file of grants first, then in the sets and rules of each IP version.

use super::entry::{self, EntryKind, SetEntry};
use super::rules::Unload;
use super::{Iptables, program, rules, sets};
use crate::firewall::FirewallError;
use crate::firewall::grant_table::GrantTable;
use crate::os::clock;
use spa_knock_core::knock::BootTime;

impl Iptables {
    /// The file first, then the firewall; as it was where the firewall does not take it.
    pub(super) fn become_held(
        &mut self,
        held: GrantTable<BootTime>,
        ended: &[SetEntry],
        touched: &[SetEntry],
    ) -> Result<(), FirewallError> {
        let unwritten = |error| FirewallError::Other(format!("not remembered: {error}"));
        match self.grant_file.write(&held, clock::boot()) {
            Ok(()) => self.unwritten = false,
            // Nothing else would close these after a crash.
            Err(error) if ended.is_empty() && !self.kernel_closes_all(touched) => {
                return Err(unwritten(error));
            }
            Err(error) => {
                // A full disk keeps no one in and no one out.
                if !std::mem::replace(&mut self.unwritten, true) {
                    log::error!("firewall: {error}: a restart now would close or open again what changes");
                }
            }
        }
        if let Err(error) = self.change(&held, ended, touched) {
            // Without sets the lock is waited for before anything is done, in each family.
            let undone = error == FirewallError::Locked
                && self.closing == Unload::Rules
                && touched.iter().all(|entry| Some(entry.family()) == touched.first().map(SetEntry::family));
            if error != FirewallError::Gone && !undone {
                let before = self.held.clone();
                if let Err(error) = self.change(&before, touched, touched) {
                    log::error!("{error}; what could be done in part is not taken back");
                }
            }
            let written = self.grant_file.write(&self.held, clock::boot());
            return Err(written.map_err(unwritten).err().filter(|_| !self.unwritten).unwrap_or(error));
        }
        self.held = held;
        Ok(())
    }

    /// Tells the firewall what changes: `ended` goes, and of what `held` holds all that has to do with `touched` is
    /// there for its time.
    pub(super) fn change(
        &mut self,
        held: &GrantTable<BootTime>,
        ended: &[SetEntry],
        touched: &[SetEntry],
    ) -> Result<(), FirewallError> {
        let Some(loaded) = &self.loaded else { return Err(FirewallError::Gone) };
        let now = clock::boot();
        let live = entry::of(&held.changes(now));
        for (family, lasting) in self.families.iter().zip(&loaded.lasting) {
            if !touched.iter().any(|entry| entry.family() == *family) {
                continue;
            }
            let present = program::present(*family)?;
            if present.lasting() != *lasting {
                return Err(FirewallError::Gone);
            }
            if self.closing == Unload::Sets {
                let again: Vec<&SetEntry> = live
                    .iter()
                    .filter(|entry| entry.family() == *family)
                    .filter(|entry| touched.iter().any(|touched| touched.meets(entry)))
                    // Whether it has been used is not known: it is not given twice.
                    .filter(|entry| {
                        entry.kind != EntryKind::Once || !ended.iter().any(|ended| ended.meets(entry))
                    })
                    .collect();
                program::ipset_restore(&sets::change(*family, ended, &again, now))?;
            }
            let text = rules::change(*family, &loaded.gate, self.closing, &live, &present);
            program::restore(*family, &text)?;
        }
        self.due = self.next_due(&live);
        Ok(())
    }

    /// When the first of the rules that stand for grants must go.
    pub(super) fn next_due(&self, live: &[SetEntry]) -> Option<BootTime> {
        let is_rule =
            |entry: &&SetEntry| self.closing == Unload::Rules || matches!(entry.kind, EntryKind::Forward(_));
        live.iter().filter(is_rule).filter_map(|entry| entry.end).min()
    }

    /// Whether the kernel closes these by itself.
    fn kernel_closes_all(&self, entries: &[SetEntry]) -> bool {
        self.closing == Unload::Sets
            && !entries.iter().any(|entry| matches!(entry.kind, EntryKind::Forward(_)))
    }
}
