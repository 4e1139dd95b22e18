//! nftables: a table of our own, loaded with `nft` in one transaction; grants go over netlink.

mod change_monitor;

mod batch;
mod books;
mod direct;
mod element;
mod json;
mod kernel;
mod plane;
mod program;
mod reconciling;
mod ruleset;
mod structure;

pub use json::prefix_from_json;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::grant_table::GrantHolder;
use super::{ActiveGrant, Backend, FirewallError, GateSpec};
use crate::os::clock;
use crate::os::process::spawn::RunError;
use batch::ElementOp;
use books::Books;
use change_monitor::{ChangeMonitor, RulesetChange};
use element::Element;
use kernel::Kernel;
use program::{nft, submit};
use ruleset::{PreviousTable, TABLE};
use spa_knock_core::auth::Grant;
use spa_knock_core::knock::{ClientName, PortRange, Steady};
use structure::Structure;

/// After a set was full nothing is added to it for so long. The kernel collects what has expired about once a second,
/// begins again after each transaction, and a transaction that fails costs it and us 12 ms or more.
const HOLD_OFF: Duration = Duration::from_millis(1_900);
/// Between two looks at whether the table is as we left it; a change that is heard of is looked at earlier.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What others change in one go is looked at once.
const LOOK_AFTER: Duration = Duration::from_millis(100);
/// How many elements are looked at every time. More of them take too long for a loop that others wait for, and only a
/// change that is heard of is looked at.
const FEW: usize = 4_096;

/// An element of ours, and who holds it. The kernel counts its time by the steady clock.
type HeldElement = (Element, GrantHolder<Steady>);

/// The table `inet spa_knock`.
pub struct Nftables {
    kernel: Kernel,
    books: Books,
    /// Whether what an earlier daemon granted has been taken into the books.
    adopted: bool,
    /// What the table was after the last load; none before the first.
    structure: Option<Structure>,
    /// How long the kernel waits for a sign of life.
    failsafe: Option<Duration>,
    /// The sets that were full, and until when nothing is added to them.
    full: BTreeMap<&'static [u8], Steady>,
    watch: ChangeMonitor,
    /// What others have changed and nobody has looked at yet.
    heard: RulesetChange,
    /// When books and kernel were last compared.
    compared: Steady,
    /// When the table is looked at again.
    look: Steady,
    /// When all elements must be looked at, however many they are.
    reconcile: Option<Steady>,
}

impl Nftables {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn open() -> Result<Self, FirewallError> {
        let now = clock::steady();
        Ok(Self {
            kernel: Kernel::open()?,
            books: Books::default(),
            adopted: false,
            structure: None,
            failsafe: None,
            full: BTreeMap::new(),
            watch: ChangeMonitor::start(),
            heard: RulesetChange::default(),
            compared: now,
            look: now,
            reconcile: None,
        })
    }

    /// What a load does with the table that is there, and which grants it must make again.
    fn before(&mut self, now: Steady) -> Result<(PreviousTable, Vec<HeldElement>), FirewallError> {
        let there = Structure::read(&mut self.kernel)?;
        if !self.adopted
            && let Err(error) = self.adopt(now)
        {
            log::error!(
                "firewall: the active grants of an earlier daemon cannot be read, and are closed: {error}\nhint: knock again"
            );
            self.books = Books::default();
            self.adopted = true;
            let before = if there.is_current() { PreviousTable::Emptied } else { PreviousTable::Replaced };
            return Ok((if there.is_there() { before } else { PreviousTable::Kept }, Vec::new()));
        }
        Ok(match (there.is_there(), there.is_current()) {
            (true, true) => (PreviousTable::Kept, Vec::new()),
            (true, false) => (PreviousTable::Replaced, self.books.elements(now).collect()),
            (false, _) => (PreviousTable::Kept, self.books.elements(now).collect()),
        })
    }

    fn listen(&mut self) {
        self.heard = self.heard.or(self.watch.changed(self.kernel.port()));
    }

    /// Fails without a transaction while one of these sets is known to be full.
    fn check_full(&mut self, elements: &[(Element, ElementOp)], now: Steady) -> Result<(), FirewallError> {
        self.full.retain(|_, until| *until > now);
        let full = growing(elements).any(|set| self.full.contains_key(set));
        if full { Err(FirewallError::Full) } else { Ok(()) }
    }
}

impl Nftables {
    /// Whether the kernel has our table, whoever loaded it.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_loaded() -> Result<bool, FirewallError> {
        match nft(&["list", "tables", "inet"], "") {
            Ok(text) => Ok(text.lines().any(|line| line.trim() == format!("table {TABLE}"))),
            Err(RunError::NotFound(_)) => Ok(false),
            Err(RunError::Failed { said, .. }) if said.contains("Operation not permitted") => {
                Err(FirewallError::NotAllowed)
            }
            Err(error) => Err(FirewallError::Other(error.to_string())),
        }
    }

    /// The ports that only a grant opens, as the rules in the kernel name them.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn closed_ports() -> Result<Vec<PortRange>, FirewallError> {
        direct::closed_ports()
    }

    /// Lets an address in to these ports for a time, without a daemon.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn grant_unconfirmed(
        address: IpAddr,
        ports: &[PortRange],
        time: Duration,
        comment: &str,
    ) -> Result<(), FirewallError> {
        direct::grant_unconfirmed(address, ports, time, comment)
    }

    /// Closes what the kernel names by this client; how much that was.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn close_client(client: &ClientName) -> Result<usize, FirewallError> {
        direct::close_client(client)
    }

    /// Removes our table, whoever loaded it.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn remove_table() -> Result<(), FirewallError> {
        // Added first: deleting what is not there is an error.
        submit(&format!("add table {TABLE}\ndelete table {TABLE}\n"))
    }
}

impl Backend for Nftables {
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError> {
        let now = clock::steady();
        let (before, live) = self.before(now)?;
        program::load(gate, |gate| ruleset::text(gate, before, &live, now))?;
        self.failsafe = gate.failsafe.as_ref().map(|failsafe| failsafe.after);
        self.full.clear();
        // What we have just replaced ourselves is no change by others.
        self.watch.changed(self.kernel.port());
        self.heard = RulesetChange::default();
        self.structure = Some(Structure::read(&mut self.kernel)?);
        // What another program has put there opens nothing from here on.
        if self.reconcile.is_some() || self.books.count() <= FEW {
            self.reconcile_at(clock::steady())?;
        }
        self.look = clock::steady().plus(LOOK_EVERY);
        Ok(())
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        let now = clock::steady();
        let draft = self.books.draft_grant(grants, now)?;
        let done = match self.check_full(&draft.elements, now) {
            Ok(()) => self.kernel.transact(&draft.elements).inspect_err(|error| {
                if *error == FirewallError::Full {
                    // From the end of the transaction, which may have taken long.
                    self.full
                        .extend(growing(&draft.elements).map(|set| (set, clock::steady().plus(HOLD_OFF))));
                }
            }),
            full => full,
        };
        match done {
            Ok(()) => self.books.keep_grant(draft, grants, now),
            Err(_) => self.books.drop(draft),
        }
        done
    }

    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
        let now = clock::steady();
        let (draft, closed) = self.books.draft_close(which, now);
        if let Err(error) = self.kernel.transact(&draft.elements) {
            self.books.drop(draft);
            return Err(error);
        }
        self.books.keep_close(which, now);
        Ok(closed)
    }

    fn reconcile(&mut self) -> Result<(), FirewallError> {
        let now = clock::steady();
        self.listen();
        // Whatever others change is heard of.
        let same = self.adopted && !self.heard.elements && self.reconcile.is_none();
        if same && now < self.compared.plus(LOOK_EVERY) {
            return Ok(());
        }
        self.reconcile_at(now)
    }

    fn live(&self) -> Vec<ActiveGrant> {
        self.books.live(clock::steady())
    }

    fn heartbeat(&mut self) -> Result<(), FirewallError> {
        let Some(after) = self.failsafe else { return Ok(()) };
        let elements = element::alive().map(|element| (element, ElementOp::Renew(after, None)));
        self.kernel.transact(&elements)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.socket().map(AsFd::as_fd)
    }

    fn modified_externally(&mut self) -> bool {
        let now = clock::steady();
        self.listen();
        let changed = std::mem::take(&mut self.heard);
        if self.structure.is_none() {
            return false;
        }
        if changed.elements {
            self.reconcile.get_or_insert(now.plus(LOOK_AFTER));
        }
        if !changed.structure && now < self.look {
            return false;
        }
        self.look = now.plus(LOOK_EVERY);
        if self.books.count() <= FEW {
            self.reconcile.get_or_insert(now);
        }
        // What cannot be read is taken for what it was until the next look.
        let same =
            Structure::read(&mut self.kernel).map_or(true, |structure| self.structure == Some(structure));
        if !same {
            self.reconcile.get_or_insert(now);
        }
        !same
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        Self::remove_table()?;
        self.books = Books::default();
        (self.structure, self.reconcile, self.heard) = (None, None, RulesetChange::default());
        self.full.clear();
        self.watch.changed(self.kernel.port());
        Ok(())
    }

    fn time_to_deadline(&self) -> Option<Duration> {
        self.structure.as_ref()?;
        let now = clock::steady();
        let due = self.reconcile.map_or(self.look, |due| due.min(self.look));
        Some(due.since(now))
    }

    fn expire(&mut self) -> Result<(), FirewallError> {
        let now = clock::steady();
        if self.structure.is_none() || self.reconcile.is_none_or(|due| due > now) {
            return Ok(());
        }
        let done = self.reconcile_at(now);
        if done.is_err() {
            self.reconcile = Some(now.plus(LOOK_EVERY));
        }
        done
    }
}

/// The sets that these changes add something to.
fn growing(elements: &[(Element, ElementOp)]) -> impl Iterator<Item = &'static [u8]> {
    let growing = elements.iter().filter(|(_, fate)| !matches!(fate, ElementOp::Delete));
    growing.map(|(element, _)| element.set)
}
