//! Applies a change of the grants: to the grant file first, then to the sets and rules of each IP version.

use super::entry::{self, EntryKind, SetEntry};
use super::rules::Unload;
use super::{Iptables, program, rules, sets};
use crate::firewall::FirewallError;
use crate::firewall::grant_table::GrantTable;
use crate::os::clock;
use spa_knock_core::knock::BootTime;

impl Iptables {
    /// Replaces the grant table: writes the file, then changes the firewall. Reverts both if the firewall refuses.
    pub(super) fn switch_to(
        &mut self,
        table: GrantTable<BootTime>,
        ended: &[SetEntry],
        changed: &[SetEntry],
    ) -> Result<(), FirewallError> {
        let unwritten = |error| FirewallError::Other(format!("grants cannot be recorded: {error}"));
        match self.grant_file.write(&table, clock::boot()) {
            Ok(()) => self.unwritten = false,
            // After a crash, nothing else would close these grants.
            Err(error) if ended.is_empty() && !self.kernel_closes_all(changed) => {
                return Err(unwritten(error));
            }
            Err(error) => {
                // A full disk neither prevents grants nor their end.
                if !std::mem::replace(&mut self.unwritten, true) {
                    log::error!(
                        "firewall: {error}; a restart now would lose new grants and restore ended ones"
                    );
                }
            }
        }
        if let Err(error) = self.change(&table, ended, changed) {
            // Without sets, the lock is acquired before anything is changed, for each IP version.
            let undone = error == FirewallError::Locked
                && self.closing == Unload::Rules
                && changed.iter().all(|entry| Some(entry.family()) == changed.first().map(SetEntry::family));
            if error != FirewallError::Gone && !undone {
                let before = self.table.clone();
                if let Err(error) = self.change(&before, changed, changed) {
                    log::error!("{error}; a partial change could not be reverted");
                }
            }
            let written = self.grant_file.write(&self.table, clock::boot());
            return Err(written.map_err(unwritten).err().filter(|_| !self.unwritten).unwrap_or(error));
        }
        self.table = table;
        Ok(())
    }

    /// Changes the firewall: removes `ended`, and adds all grants of `table` that overlap `changed` for the rest of
    /// their time.
    pub(super) fn change(
        &mut self,
        table: &GrantTable<BootTime>,
        ended: &[SetEntry],
        changed: &[SetEntry],
    ) -> Result<(), FirewallError> {
        let Some(loaded) = &self.loaded else { return Err(FirewallError::Gone) };
        let now = clock::boot();
        let live = entry::of(&table.changes(now));
        for (family, lasting) in self.families.iter().zip(&loaded.lasting) {
            if !changed.iter().any(|entry| entry.family() == *family) {
                continue;
            }
            let present = program::present(*family)?;
            if present.lasting() != *lasting {
                return Err(FirewallError::Gone);
            }
            if self.closing == Unload::Sets {
                let renewed: Vec<&SetEntry> = live
                    .iter()
                    .filter(|entry| entry.family() == *family)
                    .filter(|entry| changed.iter().any(|changed| changed.overlaps(entry)))
                    // It may have been used already, so it is not added again.
                    .filter(|entry| {
                        entry.kind != EntryKind::Once || !ended.iter().any(|ended| ended.overlaps(entry))
                    })
                    .collect();
                program::ipset_restore(&sets::change(*family, ended, &renewed, now))?;
            }
            let text = rules::change(*family, &loaded.gate, self.closing, &live, &present);
            program::restore(*family, &text)?;
        }
        self.due = self.next_due(&live);
        Ok(())
    }

    /// When the first grant that is a rule expires.
    pub(super) fn next_due(&self, live: &[SetEntry]) -> Option<BootTime> {
        let is_rule = |entry: &&SetEntry| self.closing == Unload::Rules || entry.kind.has_rule();
        live.iter().filter(is_rule).filter_map(|entry| entry.end).min()
    }

    /// Whether the kernel removes all of these when they expire.
    fn kernel_closes_all(&self, entries: &[SetEntry]) -> bool {
        self.closing == Unload::Sets && !entries.iter().any(|entry| entry.kind.has_rule())
    }
}
