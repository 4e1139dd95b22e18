//! The backend for iptables and ip6tables: chains of our own, each table loaded in one transaction. Grants are entries
//! of ipset's sets, which the kernel removes when they expire. Without ipset they are rules, which the daemon removes.
//!
//! A packet that a grant admits leaves our chains and meets the rules of other programs, as with nftables. Nothing that
//! is not ours is changed. The active grants are written to a file before the firewall is changed.

mod grant_file;
mod installed;

mod changes;
mod direct;
mod entry;
mod family;
mod halves;
mod limits;
mod loaded;
mod names;
mod own_ports;
mod program;
mod rules;
mod sets;
mod translation;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::grant_table::GrantTable;
use super::{ActiveGrant, Backend, FirewallError, GateSpec};
use crate::os::{clock, host};
use entry::{EntryKind, SetEntry};
use family::IpVersion;
use grant_file::GrantFile;
use limits::OLDER_MAX;
use rules::Unload;
use spa_knock_core::auth::Grant;
use spa_knock_core::knock::{BootTime, Steady};

/// Time between two checks of whether our rules are still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before closing expired grants is retried.
const RETRY: Duration = Duration::from_secs(1);

/// Our chains and sets.
pub struct Iptables {
    families: Vec<IpVersion>,
    closing: Unload,
    grant_file: GrantFile,
    table: GrantTable<BootTime>,
    loaded: Option<LoadedRules>,
    /// When the next rule must be removed.
    due: Option<BootTime>,
    /// When our rules are checked next.
    next_check: Steady,
    /// Whether the last change is missing from the grant file; this is reported once.
    unwritten: bool,
}

/// The rules of the last load.
struct LoadedRules {
    gate: GateSpec,
    /// The lines that do not change until the next load, for each IP version.
    lasting: Vec<Vec<String>>,
}

impl Iptables {
    /// Checks which programs are available, and reads the grants of the previous daemon from the state folder.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn open(state: &Path) -> Result<Self, FirewallError> {
        let families = IpVersion::here();
        for family in &families {
            if host::program(family.program()).is_none() {
                return Err(FirewallError::Other(format!(
                    "{} not found\nhint: apt install iptables (or set firewall.backend = \"none\")",
                    family.program()
                )));
            }
        }
        let closing = if Self::has_sets() { Unload::Sets } else { Unload::Rules };
        if closing == Unload::Rules {
            log::warn!(
                "firewall: ipset is not available: only the daemon closes grants, so they stay open while it is not running\nhint: apt install ipset"
            );
        }
        let grant_file = GrantFile::of(state);
        let table = grant_file.read();
        Ok(Self {
            families,
            closing,
            grant_file,
            table,
            loaded: None,
            due: None,
            next_check: clock::steady(),
            unwritten: false,
        })
    }

    /// Whether the kernel can close grants: ipset is installed and works.
    #[must_use]
    pub fn has_sets() -> bool {
        host::program("ipset").is_some() && program::ipset(&["list", "-n"]).is_ok()
    }

    /// Whether the kernel has chains of ours, no matter which process loaded them.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn is_loaded() -> Result<bool, FirewallError> {
        loaded::is_loaded()
    }

    /// Removes all chains and sets of ours, no matter which process loaded them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_all() -> Result<(), FirewallError> {
        loaded::remove_all()
    }

    /// Makes the kernel load its modules for these tables, which needs privileges that the daemon drops.
    pub fn prime(tables: &[&str]) {
        for family in IpVersion::here() {
            program::prime(family, tables);
        }
    }

    /// Applies the grants of all these lists, or none, in one transaction for each IP version.
    fn apply(&mut self, lists: &[(usize, &Vec<Grant>)]) -> Result<(), FirewallError> {
        let now = clock::boot();
        let mut table = self.table.clone();
        let mut changes = Vec::new();
        for (_, grants) in lists {
            changes.extend(grants.iter().map(|grant| table.with(grant, now)));
            table.note(grants, now);
        }
        self.switch_to(table, &[], &entry::of(&changes))
    }

    /// Whether all loaded rules are still there.
    fn is_intact(&self) -> bool {
        let Some(loaded) = &self.loaded else { return true };
        self.families.iter().zip(&loaded.lasting).all(|(family, lasting)| {
            // If it cannot be read, it counts as unchanged.
            program::present(*family).map_or(true, |present| present.lasting() == *lasting)
        })
    }
}

impl Backend for Iptables {
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError> {
        self.refuse(gate)?;
        let mut gate = gate.clone();
        if gate.established.len() > OLDER_MAX {
            log::warn!(
                "firewall: only {OLDER_MAX} of the connections older than the gate are guaranteed to survive"
            );
            gate.established.truncate(OLDER_MAX);
        }
        let now = clock::boot();
        let live = entry::of(&self.table.changes(now));
        let mut lasting = Vec::new();
        for &family in &self.families {
            let live: Vec<SetEntry> = live.iter().filter(|entry| entry.family() == family).cloned().collect();
            if self.closing == Unload::Sets {
                let stale = stale_once(family, &live);
                program::ipset_restore(&sets::load(family, &gate, &live, &stale, now))?;
            }
            let text = rules::load(family, &gate, self.closing, &live, &program::present(family)?);
            program::restore(family, &text)?;
            lasting.push(program::present(family)?.lasting().into_iter().map(str::to_owned).collect());
        }
        self.loaded = Some(LoadedRules { gate, lasting });
        self.due = self.next_due(&live);
        self.next_check = clock::steady().plus(CHECK_INTERVAL);
        Ok(())
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        self.grant_all(&[grants.to_vec()]).pop().unwrap_or(Ok(()))
    }

    fn grant_all(&mut self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        let mut outcomes = self.check_all(lists);
        let accepted = (0..).zip(lists).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let accepted: Vec<(usize, &Vec<Grant>)> = accepted.map(|(list, _)| list).collect();
        halves::apply(&accepted, &mut |some| self.apply(some), &mut |(place, _), outcome| {
            if let Some(known) = outcomes.get_mut(*place) {
                *known = outcome;
            }
        });
        outcomes
    }

    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
        let now = clock::boot();
        let (changes, closed) = self.table.without(which, now);
        if changes.is_empty() {
            return Ok(closed);
        }
        let mut table = self.table.clone();
        table.remove(which, now);
        let ended = entry::of(&changes);
        self.switch_to(table, &ended, &ended)?;
        Ok(closed)
    }

    fn live(&self) -> Vec<ActiveGrant> {
        self.table.live(clock::boot())
    }

    fn heartbeat(&mut self) -> Result<(), FirewallError> {
        let failsafe = self.loaded.as_ref().and_then(|loaded| loaded.gate.failsafe.as_ref());
        let Some(after) = failsafe.map(|failsafe| failsafe.after) else { return Ok(()) };
        self.families
            .iter()
            .try_for_each(|family| program::ipset_restore(&sets::all_addresses("heartbeat", *family, after)))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The kernel does not report changes, so the rules are checked at intervals.
    fn modified_externally(&mut self) -> bool {
        let now = clock::steady();
        if self.loaded.is_none() || now < self.next_check {
            return false;
        }
        self.next_check = now.plus(CHECK_INTERVAL);
        !self.is_intact()
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        for &family in &self.families {
            program::restore(family, &rules::remove(&program::present(family)?))?;
            if self.closing == Unload::Sets {
                let names = program::ipset(&["list", "-n"])?;
                let ours: Vec<String> =
                    sets::names(family).filter(|name| names.lines().any(|line| line == name)).collect();
                ours.iter().try_for_each(|name| program::ipset(&["destroy", name]).map(drop))?;
            }
        }
        (self.table, self.loaded, self.due) = (GrantTable::default(), None, None);
        // The gate is off even if the file cannot be written; grants that it still lists end in their time.
        if let Err(error) = self.grant_file.write(&self.table, clock::boot()) {
            log::warn!("firewall: {error}; it still lists grants that are now closed");
        }
        Ok(())
    }

    fn time_to_deadline(&self) -> Option<Duration> {
        let next_check = self.loaded.as_ref().map(|_| self.next_check.since(clock::steady()));
        let due = self.due.map(|due| due.since(clock::boot()));
        due.into_iter().chain(next_check).min()
    }

    fn expire(&mut self) -> Result<(), FirewallError> {
        let now = clock::boot();
        if self.due.is_none_or(|due| now < due) {
            return Ok(());
        }
        let table = self.table.clone();
        let mut expired: Vec<SetEntry> = entry::of(&table.all_changes());
        // Unexpired grants are not changed: a used grant for one connection must not be added again.
        expired.retain(|entry| entry.end <= Some(now));
        let closed = self.change(&table, &[], &expired);
        if closed.is_err() {
            self.due = Some(now.plus(RETRY));
        }
        closed
    }

    fn kernel_closes(&self) -> bool {
        self.closing == Unload::Sets
    }

    fn suspend(&mut self) -> Result<(), FirewallError> {
        if self.closing == Unload::Sets || self.loaded.is_none() {
            return Ok(());
        }
        let expired: Vec<SetEntry> = entry::of(&self.table.all_changes());
        self.change(&GrantTable::default(), &[], &expired)
    }
}

/// Entries of the set `once` without a holder, left for example by a crash while they were being closed.
fn stale_once(family: IpVersion, live: &[SetEntry]) -> Vec<String> {
    let name = sets::name("once", family);
    let known: Vec<String> =
        live.iter().filter(|entry| entry.kind == EntryKind::Once).map(sets::key).collect();
    // A set that does not exist yet has no entries.
    let text = program::ipset(&["save", &name]).unwrap_or_default();
    let keys = text.lines().filter_map(|line| line.strip_prefix(&format!("add {name} "))?.split(' ').next());
    keys.filter(|key| !known.iter().any(|known| known == key)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
