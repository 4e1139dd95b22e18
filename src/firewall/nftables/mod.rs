//! The nftables backend: a table of our own, loaded with `nft` in one transaction. Grants are changed over netlink.

mod change_monitor;

mod batch;
mod direct;
mod element;
mod element_text;
mod hints;
mod json;
mod kernel;
mod knock_port;
mod plane;
mod program;
mod reconciling;
mod records;
mod ruleset;
mod structure;

pub use json::prefix_from_json;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::grant_table::GrantHolder;
use super::{ActiveGrant, Backend, FirewallError, GateSpec};
use crate::os::clock;
use crate::os::process::spawn::RunError;
use batch::ElementOp;
use change_monitor::{ChangeMonitor, RulesetChange};
use element::Element;
use hints::HintSet;
use kernel::Kernel;
use program::{nft, submit};
use records::GrantRecords;
use ruleset::{PreviousTable, TABLE};
use spa_knock_core::auth::{Grant, LiveHint};
use spa_knock_core::knock::{ClientName, PortRange, Steady};
use structure::Structure;

/// How long nothing is added to a set that was full. The kernel collects expired elements about once a second and
/// restarts that interval after each transaction; a failed transaction costs the kernel and this process 12 ms or more.
const HOLD_OFF: Duration = Duration::from_millis(1_900);
/// Time between two checks of the table for changes; a reported change is checked earlier.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before a check, so that several changes by one program are checked together.
const CHECK_DELAY: Duration = Duration::from_millis(100);
/// Up to how many elements are compared at every check. Comparing more of them takes too long for the event loop, so it
/// is done only after a reported change.
const ALWAYS_COMPARED_MAX: usize = 4_096;

/// An element of ours and its holder. The kernel measures its timeout with the steady clock.
type HeldElement = (Element, GrantHolder<Steady>);

/// The table `inet spa_knock`.
pub struct Nftables {
    kernel: Kernel,
    records: GrantRecords,
    /// Whether the grants of the previous daemon have been adopted into the records.
    adopted: bool,
    /// The table's structure after the last load; `None` before the first one.
    structure: Option<Structure>,
    /// How long after a heartbeat the kernel waits before it applies the failsafe.
    failsafe: Option<Duration>,
    /// The live hints; `None` while hints are not filtered.
    hints: Option<HintSet>,
    /// Sets that were full, and until when nothing is added to them.
    full: BTreeMap<&'static [u8], Steady>,
    watch: ChangeMonitor,
    /// Reported changes by other programs that have not been checked yet.
    unchecked: RulesetChange,
    /// When records and kernel were last compared.
    compared: Steady,
    /// When the table's structure is checked next.
    next_check: Steady,
    /// When all elements must be compared, however many there are.
    reconcile: Option<Steady>,
}

impl Nftables {
    /// Opens a netlink socket to the kernel.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn open() -> Result<Self, FirewallError> {
        let now = clock::steady();
        Ok(Self {
            kernel: Kernel::open()?,
            records: GrantRecords::default(),
            adopted: false,
            structure: None,
            failsafe: None,
            hints: None,
            full: BTreeMap::new(),
            watch: ChangeMonitor::start(),
            unchecked: RulesetChange::default(),
            compared: now,
            next_check: now,
            reconcile: None,
        })
    }

    /// Decides what a load does with the existing table, and which grants it must add again.
    fn before(&mut self, now: Steady) -> Result<(PreviousTable, Vec<HeldElement>), FirewallError> {
        let table = Structure::read(&mut self.kernel)?;
        if table.is_dormant() {
            // The kernel adds no chain to a table whose flags change in the same transaction.
            submit(&format!("add table {TABLE}\n"))?;
        }
        if !self.adopted
            && let Err(error) = self.adopt(now)
        {
            log::error!(
                "firewall: active grants of the previous daemon cannot be read: {error}; revoking them\nhint: knock again"
            );
            self.records = GrantRecords::default();
            self.adopted = true;
            let before = if table.is_current() { PreviousTable::Emptied } else { PreviousTable::Replaced };
            return Ok((if table.is_there() { before } else { PreviousTable::Kept }, Vec::new()));
        }
        Ok(match (table.is_there(), table.is_current()) {
            (true, true) => (PreviousTable::Kept, Vec::new()),
            (true, false) => (PreviousTable::Replaced, self.records.elements(now).collect()),
            (false, _) => (PreviousTable::Kept, self.records.elements(now).collect()),
        })
    }

    fn drain_changes(&mut self) {
        self.unchecked = self.unchecked.or(self.watch.changed(self.kernel.port()));
    }

    /// Fails without a transaction while one of these sets is known to be full.
    fn check_full(&mut self, elements: &[(Element, ElementOp)], now: Steady) -> Result<(), FirewallError> {
        self.full.retain(|_, until| *until > now);
        let full = growing(elements).any(|set| self.full.contains_key(set));
        if full { Err(FirewallError::Full) } else { Ok(()) }
    }
}

impl Nftables {
    /// Whether the kernel has our table, no matter which process loaded it.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn is_loaded() -> Result<bool, FirewallError> {
        match nft(&["list", "tables", "inet"], "") {
            Ok(text) => Ok(text.lines().any(|line| line.trim() == format!("table {TABLE}"))),
            Err(RunError::NotFound(_)) => Ok(false),
            Err(RunError::Failed { output, .. }) if output.contains("Operation not permitted") => {
                Err(FirewallError::NotAllowed)
            }
            Err(error) => Err(FirewallError::Other(error.to_string())),
        }
    }

    /// The ports that only a grant opens, read from the kernel's rules.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn closed_ports() -> Result<Vec<PortRange>, FirewallError> {
        direct::closed_ports()
    }

    /// Opens these ports for an address for a time, without a daemon.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn grant_unconfirmed(
        address: IpAddr,
        ports: &[PortRange],
        time: Duration,
        comment: &str,
    ) -> Result<(), FirewallError> {
        direct::grant_unconfirmed(address, ports, time, comment)
    }

    /// Closes the grants that carry this client's name in the kernel, and returns their number.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close_client(client: &ClientName) -> Result<usize, FirewallError> {
        direct::close_client(client)
    }

    /// Removes our table, no matter which process loaded it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_table() -> Result<(), FirewallError> {
        // Added first, because deleting a missing table is an error.
        submit(&format!("add table {TABLE}\ndelete table {TABLE}\n"))
    }
}

impl Backend for Nftables {
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError> {
        let now = clock::steady();
        let (before, live) = self.before(now)?;
        let filters = program::load(gate, |gate| ruleset::text(gate, before, &live, now))?;
        self.hints = filters.then(|| self.hints.take().unwrap_or_default());
        self.hints.iter_mut().for_each(HintSet::doubt);
        self.failsafe = gate.failsafe.as_ref().map(|failsafe| failsafe.after);
        self.full.clear();
        // Our own changes are not changes by other programs.
        self.watch.changed(self.kernel.port());
        self.unchecked = RulesetChange::default();
        self.structure = Some(Structure::read(&mut self.kernel)?);
        // Removes elements that another program has added.
        if self.reconcile.is_some() || self.records.count() <= ALWAYS_COMPARED_MAX {
            self.reconcile_at(clock::steady())?;
        } else {
            self.restore_hints()?;
        }
        self.next_check = clock::steady().plus(CHECK_INTERVAL);
        Ok(())
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        let now = clock::steady();
        let draft = self.records.draft_grant(grants, now)?;
        let done = match self.check_full(&draft.elements, now) {
            Ok(()) => self.kernel.transact(&draft.elements).inspect_err(|error| {
                if *error == FirewallError::Full {
                    // Counted from the end of the transaction, which may have taken long.
                    self.full
                        .extend(growing(&draft.elements).map(|set| (set, clock::steady().plus(HOLD_OFF))));
                }
            }),
            full => full,
        };
        match done {
            Ok(()) => self.records.keep_grant(draft, grants, now),
            Err(_) => self.records.drop(draft),
        }
        done
    }

    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
        let now = clock::steady();
        let (draft, closed) = self.records.draft_close(which, now);
        if let Err(error) = self.kernel.transact(&draft.elements) {
            self.records.drop(draft);
            return Err(error);
        }
        self.records.keep_close(which, now);
        Ok(closed)
    }

    fn reconcile(&mut self) -> Result<(), FirewallError> {
        let now = clock::steady();
        self.drain_changes();
        // Any other change would have been reported.
        let same = self.adopted && !self.unchecked.elements && self.reconcile.is_none();
        if same && now < self.compared.plus(CHECK_INTERVAL) {
            return Ok(());
        }
        self.reconcile_at(now)
    }

    fn live(&self) -> Vec<ActiveGrant> {
        self.records.live(clock::steady())
    }

    fn heartbeat(&mut self) -> Result<(), FirewallError> {
        let Some(after) = self.failsafe else { return Ok(()) };
        let elements = element::heartbeat().map(|element| (element, ElementOp::Renew(after, None)));
        self.kernel.transact(&elements)
    }

    fn filters_hints(&self) -> bool {
        self.hints.is_some()
    }

    fn lacks_hints(&self, epochs: &RangeInclusive<u64>) -> bool {
        self.hints.as_ref().is_some_and(|known| known.lacks(epochs))
    }

    fn admit_hints(&mut self, hints: &[LiveHint], epochs: RangeInclusive<u64>) -> Result<(), FirewallError> {
        self.hints.as_mut().map_or(Ok(()), |known| known.replace(&mut self.kernel, hints, epochs))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.socket().map(AsFd::as_fd)
    }

    fn modified_externally(&mut self) -> bool {
        let now = clock::steady();
        self.drain_changes();
        let changed = std::mem::take(&mut self.unchecked);
        if self.structure.is_none() {
            return false;
        }
        if changed.elements {
            self.reconcile.get_or_insert(now.plus(CHECK_DELAY));
            self.hints.iter_mut().for_each(HintSet::doubt);
        }
        if !changed.structure && now < self.next_check {
            return false;
        }
        self.next_check = now.plus(CHECK_INTERVAL);
        if self.records.count() <= ALWAYS_COMPARED_MAX {
            self.reconcile.get_or_insert(now);
        }
        // If it cannot be read, it counts as unchanged until the next check.
        let same =
            Structure::read(&mut self.kernel).map_or(true, |structure| self.structure == Some(structure));
        if !same {
            self.reconcile.get_or_insert(now);
        }
        !same
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        Self::remove_table()?;
        self.records = GrantRecords::default();
        (self.structure, self.reconcile, self.hints) = (None, None, None);
        self.unchecked = RulesetChange::default();
        self.full.clear();
        self.watch.changed(self.kernel.port());
        Ok(())
    }

    fn time_to_deadline(&self) -> Option<Duration> {
        self.structure.as_ref()?;
        let now = clock::steady();
        let due = self.reconcile.map_or(self.next_check, |due| due.min(self.next_check));
        Some(due.since(now))
    }

    fn expire(&mut self) -> Result<(), FirewallError> {
        let now = clock::steady();
        if self.structure.is_none() || self.reconcile.is_none_or(|due| due > now) {
            return Ok(());
        }
        let done = self.reconcile_at(now);
        if done.is_err() {
            self.reconcile = Some(now.plus(CHECK_INTERVAL));
        }
        done
    }
}

/// The sets to which these changes add elements.
fn growing(elements: &[(Element, ElementOp)]) -> impl Iterator<Item = &'static [u8]> {
    let growing = elements.iter().filter(|(_, op)| !matches!(op, ElementOp::Delete));
    growing.map(|(element, _)| element.set)
}
