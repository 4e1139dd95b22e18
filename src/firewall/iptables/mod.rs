//! iptables and ip6tables: chains of our own, each table loaded in one transaction. Grants are entries of ipset's sets,
//! which the kernel closes; without ipset they are rules, which the daemon takes away on time.
//!
//! A packet that may come in leaves our chains for the rules of others, as with nftables; nothing that is not ours is
//! changed. Which grants are live stands in a file before the firewall is told.

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
mod program;
mod rules;
mod sets;

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

/// Between two looks at whether our rules still stand.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Until what could not be closed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Our chains and sets.
pub struct Iptables {
    families: Vec<IpVersion>,
    closing: Unload,
    grant_file: GrantFile,
    held: GrantTable<BootTime>,
    loaded: Option<LoadedRules>,
    /// When rules must go.
    due: Option<BootTime>,
    /// When our rules are looked at again.
    look: Steady,
    /// Whether the last change is missing in the journal: reported once.
    unwritten: bool,
}

/// What was loaded last.
struct LoadedRules {
    gate: GateSpec,
    /// What stays of it until the next load, in each family.
    lasting: Vec<Vec<String>>,
}

impl Iptables {
    /// Finds out what there is to work with, and reads from the state folder what an earlier daemon has granted.
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
                "firewall: no ipset: the daemon closes what it opens; while it is dead nobody does\nhint: apt install ipset"
            );
        }
        let journal = GrantFile::of(state);
        let held = journal.read();
        Ok(Self {
            families,
            closing,
            grant_file: journal,
            held,
            loaded: None,
            due: None,
            look: clock::steady(),
            unwritten: false,
        })
    }

    /// Whether the kernel can close what is opened: ipset is there and works.
    #[must_use]
    pub fn has_sets() -> bool {
        host::program("ipset").is_some() && program::ipset(&["list", "-n"]).is_ok()
    }

    /// Whether the kernel has chains of ours, whoever loaded them.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_loaded() -> Result<bool, FirewallError> {
        loaded::is_loaded()
    }

    /// Removes all chains and sets of ours, whoever loaded them.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn remove_all() -> Result<(), FirewallError> {
        loaded::remove_all()
    }

    /// Has the kernel load its parts for these tables, which needs rights that the daemon gives up.
    pub fn prime(tables: &[&str]) {
        for family in IpVersion::here() {
            program::prime(family, tables);
        }
    }

    /// Makes the grants of all these lists, or none, in one transaction of each family.
    fn hold(&mut self, lists: &[(usize, &Vec<Grant>)]) -> Result<(), FirewallError> {
        let now = clock::boot();
        let mut held = self.held.clone();
        let mut changes = Vec::new();
        for (_, grants) in lists {
            changes.extend(grants.iter().map(|grant| held.with(grant, now)));
            held.note(grants, now);
        }
        self.become_held(held, &[], &entry::of(&changes))
    }

    /// Whether all that was loaded still stands.
    fn stands(&self) -> bool {
        let Some(loaded) = &self.loaded else { return true };
        self.families.iter().zip(&loaded.lasting).all(|(family, lasting)| {
            // What cannot be looked at is taken for what it was.
            program::present(*family).map_or(true, |present| present.lasting() == *lasting)
        })
    }
}

impl Backend for Iptables {
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError> {
        self.refuse(gate)?;
        let mut gate = gate.clone();
        if gate.established.len() > OLDER_MAX {
            log::warn!("firewall: of connections older than the gate only {OLDER_MAX} are sure to live on");
            gate.established.truncate(OLDER_MAX);
        }
        let now = clock::boot();
        let live = entry::of(&self.held.changes(now));
        let mut lasting = Vec::new();
        for &family in &self.families {
            let live: Vec<SetEntry> = live.iter().filter(|entry| entry.family() == family).cloned().collect();
            if self.closing == Unload::Sets {
                let strange = strange_once(family, &live);
                program::ipset_restore(&sets::load(family, &gate, &live, &strange, now))?;
            }
            let text = rules::load(family, &gate, self.closing, &live, &program::present(family)?);
            program::restore(family, &text)?;
            lasting.push(program::present(family)?.lasting().into_iter().map(str::to_owned).collect());
        }
        self.loaded = Some(LoadedRules { gate, lasting });
        self.due = self.next_due(&live);
        self.look = clock::steady().plus(LOOK_EVERY);
        Ok(())
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        self.grant_all(&[grants.to_vec()]).pop().unwrap_or(Ok(()))
    }

    fn grant_all(&mut self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        let mut outcomes = self.check_all(lists);
        let accepted = (0..).zip(lists).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let accepted: Vec<(usize, &Vec<Grant>)> = accepted.map(|(list, _)| list).collect();
        halves::apply(&accepted, &mut |some| self.hold(some), &mut |(place, _), outcome| {
            if let Some(known) = outcomes.get_mut(*place) {
                *known = outcome;
            }
        });
        outcomes
    }

    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
        let now = clock::boot();
        let (changes, closed) = self.held.without(which, now);
        if changes.is_empty() {
            return Ok(closed);
        }
        let mut held = self.held.clone();
        held.forget(which, now);
        let ended = entry::of(&changes);
        self.become_held(held, &ended, &ended)?;
        Ok(closed)
    }

    fn live(&self) -> Vec<ActiveGrant> {
        self.held.live(clock::boot())
    }

    fn heartbeat(&mut self) -> Result<(), FirewallError> {
        let failsafe = self.loaded.as_ref().and_then(|loaded| loaded.gate.failsafe.as_ref());
        let Some(after) = failsafe.map(|failsafe| failsafe.after) else { return Ok(()) };
        self.families
            .iter()
            .try_for_each(|family| program::ipset_restore(&sets::everybody("heartbeat", *family, after)))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Nobody tells: looked at now and then.
    fn modified_externally(&mut self) -> bool {
        let now = clock::steady();
        if self.loaded.is_none() || now < self.look {
            return false;
        }
        self.look = now.plus(LOOK_EVERY);
        !self.stands()
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        for &family in &self.families {
            program::restore(family, &rules::remove(&program::present(family)?))?;
            if self.closing == Unload::Sets {
                let there = program::ipset(&["list", "-n"])?;
                let ours: Vec<String> =
                    sets::names(family).filter(|name| there.lines().any(|line| line == name)).collect();
                ours.iter().try_for_each(|name| program::ipset(&["destroy", name]).map(drop))?;
            }
        }
        (self.held, self.loaded, self.due) = (GrantTable::default(), None, None);
        // The gate is off whatever the disk says; what the file still lists ends in its time.
        if let Err(error) = self.grant_file.write(&self.held, clock::boot()) {
            log::warn!("firewall: {error}: it still lists grants that are closed now");
        }
        Ok(())
    }

    fn time_to_deadline(&self) -> Option<Duration> {
        let look = self.loaded.as_ref().map(|_| self.look.since(clock::steady()));
        let due = self.due.map(|due| due.since(clock::boot()));
        due.into_iter().chain(look).min()
    }

    fn expire(&mut self) -> Result<(), FirewallError> {
        let now = clock::boot();
        if self.due.is_none_or(|due| now < due) {
            return Ok(());
        }
        let held = self.held.clone();
        let mut over: Vec<SetEntry> = entry::of(&held.all_changes());
        // What lives on is not touched: a grant for one connection that has been used must not be there again.
        over.retain(|entry| entry.end <= Some(now));
        let closed = self.change(&held, &[], &over);
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
        let over: Vec<SetEntry> = entry::of(&self.held.all_changes());
        self.change(&GrantTable::default(), &[], &over)
    }
}

/// Entries of the set for single connections that nobody holds any more, as after a crash while they were closed.
fn strange_once(family: IpVersion, live: &[SetEntry]) -> Vec<String> {
    let name = sets::name("once", family);
    let known: Vec<String> =
        live.iter().filter(|entry| entry.kind == EntryKind::Once).map(sets::key).collect();
    // Where there is no such set yet there is nothing in it.
    let text = program::ipset(&["save", &name]).unwrap_or_default();
    let keys = text.lines().filter_map(|line| line.strip_prefix(&format!("add {name} "))?.split(' ').next());
    keys.filter(|key| !known.iter().any(|known| known == key)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
