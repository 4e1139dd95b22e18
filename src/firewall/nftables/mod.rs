//! nftables: a table of our own, loaded with `nft` in one transaction; grants go over netlink.

mod batch;
mod direct;
mod element;
mod live;
mod ruleset;
mod watch;

pub use self::live::prefix_from_json;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use self::batch::Fate;
use self::element::Element;
use self::live::Listed;
use self::ruleset::{Before, SCHEMA, TABLE};
use self::watch::{Heard, Watch};
use super::held::{Change, Held};
use super::{Backend, FirewallError, Gate, Live};
use crate::gate::{Grant, Passage, Way};
use crate::knock::{ClientName, Ports};
use crate::os::host::Capability;
use crate::os::netlink::Netlink;
use crate::os::runner::{self, RunError};
use crate::os::{capabilities, clock};

/// How long loading may take before it counts as failed.
const NFT_MAX: Duration = Duration::from_secs(10);
/// The widest range of ports that is opened one by one where it overlaps another grant.
const APART_MAX: u32 = 1024;

/// The table `inet spa_knock`.
pub struct Nftables {
    netlink: Netlink,
    sequence: u32,
    held: Held,
    /// Whether what an earlier daemon granted has been taken up.
    adopted: bool,
    /// How long the kernel waits for a sign of life.
    failsafe: Option<Duration>,
    watch: Watch,
}

impl Nftables {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn open() -> Result<Self, FirewallError> {
        let netlink = Netlink::open().map_err(|error| FirewallError::Other(format!("netlink: {error}")))?;
        Ok(Self {
            netlink,
            sequence: 0,
            held: Held::default(),
            adopted: false,
            failsafe: None,
            watch: Watch::start(),
        })
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
    pub fn closed_ports() -> Result<Vec<Ports>, FirewallError> {
        direct::closed_ports()
    }

    /// Lets an address in to these ports for a time, without a daemon.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn let_in(
        address: IpAddr,
        ports: &[Ports],
        time: Duration,
        comment: &str,
    ) -> Result<(), FirewallError> {
        direct::let_in(address, ports, time, comment)
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
    fn load(&mut self, gate: &Gate) -> Result<(), FirewallError> {
        let now = clock::steady();
        // With tens of thousands of grants it takes seconds to tell them all: once is enough.
        let listed = list(if self.adopted { Detail::Chains } else { Detail::Grants }, now);
        if !std::mem::replace(&mut self.adopted, true) {
            // What an earlier daemon granted must not be shortened either, and may have to be closed.
            for (passage, holder) in listed.iter().flat_map(|listed| &listed.grants) {
                self.held.hold(*passage, holder.clone());
            }
        }
        let (before, live) = match &listed {
            Some(listed) if listed.has_chain(SCHEMA) => (Before::Kept, Vec::new()),
            Some(_) => (Before::Replaced, self.held.changes(now)),
            None => (Before::Kept, self.held.changes(now)),
        };
        load(gate, |gate| ruleset::text(gate, before, &live, now))?;
        self.failsafe = gate.failsafe.as_ref().map(|failsafe| failsafe.after);
        // What we have just replaced ourselves is no loss.
        self.watch.heard();
        Ok(())
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        match self.open_for(grants) {
            // Two ranges that overlap cannot stand in one set. Ports that stand alone can, in another one.
            Err(FirewallError::Overlap) => self.open_for(&port_by_port(grants)?),
            opened => opened,
        }
    }

    fn close(&mut self, which: &dyn Fn(&Live) -> bool) -> Result<Vec<Live>, FirewallError> {
        let now = clock::steady();
        let (changes, closed) = self.held.without(which, now);
        self.change(&changes, now)?;
        self.held.forget(which, now);
        Ok(closed)
    }

    fn live(&self) -> Vec<Live> {
        self.held.live(clock::steady())
    }

    fn stay_alive(&mut self) -> Result<(), FirewallError> {
        let Some(after) = self.failsafe else { return Ok(()) };
        let elements = element::alive().map(|element| (element, Fate::Stays(after, None)));
        self.transact(&elements)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.socket().map(AsFd::as_fd)
    }

    fn disturbed(&mut self) -> bool {
        match self.watch.heard() {
            Heard::Nothing => false,
            Heard::Loss => true,
            // Whoever adds thousands of elements somewhere drowns what else is said.
            Heard::TooMuch => !list(Detail::Chains, clock::steady()).is_some_and(|listed| listed.is_whole()),
        }
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        Self::remove_table()?;
        self.held = Held::default();
        self.watch.heard();
        Ok(())
    }
}

impl Nftables {
    /// What is held is what the kernel has, so that all of it can be told again, listed and closed: all of these are in
    /// one transaction, however many they are.
    fn open_for(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        let now = clock::steady();
        let changes: Vec<_> = grants.iter().map(|grant| self.held.with(grant, now)).collect();
        self.change(&changes, now)?;
        self.held.note(grants, now);
        Ok(())
    }

    fn change(&mut self, changes: &[Change], now: Duration) -> Result<(), FirewallError> {
        let elements: Vec<_> = changes.iter().map(|change| batch::fate(change, now)).collect();
        self.transact(&elements)
    }

    fn transact(&mut self, elements: &[(Element, Fate)]) -> Result<(), FirewallError> {
        if elements.is_empty() {
            return Ok(());
        }
        self.sequence = self.sequence.wrapping_add(1);
        let messages = batch::transaction(elements, self.sequence)
            .ok_or(FirewallError::Other("too many grants at once".to_owned()))?;
        self.netlink.send(&messages).map_err(netlink_failed)?;
        self.answer()
    }

    /// What came of the last transaction. The kernel has done its work: all answers are there, and all are taken, as
    /// those that stay take the room of the next one's.
    fn answer(&self) -> Result<(), FirewallError> {
        let mut answer = None;
        let mut buffer = [0; 8192];
        loop {
            let length = match self.netlink.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                // Each message that fails has an answer of its own, and thousands have no room. The first is among
                // those that had.
                Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::ENOBUFS) => continue,
                Err(error) => return Err(netlink_failed(error)),
            };
            let answers = batch::answers(buffer.get(..length).unwrap_or_default());
            // What an earlier batch left behind is passed over.
            let ours = answers.into_iter().find(|(sequence, _)| *sequence == self.sequence);
            answer = answer.or(ours.map(|(_, errno)| errno));
        }
        match answer {
            Some(0) => Ok(()),
            Some(errno) => Err(describe(errno)),
            None => Err(FirewallError::Other("netlink: no answer".to_owned())),
        }
    }
}

fn netlink_failed(error: io::Error) -> FirewallError {
    FirewallError::Other(format!("netlink: {error}"))
}

/// The same in elements that cannot overlap.
fn port_by_port(grants: &[Grant]) -> Result<Vec<Grant>, FirewallError> {
    let mut all = Vec::new();
    for grant in grants {
        match grant.passage() {
            Passage { from, way: Way::Ports(ports) }
                if from.single().is_none() || ports.count() > APART_MAX =>
            {
                return Err(FirewallError::Overlap);
            }
            _ => all.extend(grant.port_by_port()),
        }
    }
    Ok(all)
}

/// Loads the gate, without its early drop if that is what the kernel does not take.
fn load(gate: &Gate, text: impl Fn(&Gate) -> String) -> Result<(), FirewallError> {
    let Err(error) = submit(&text(gate)) else { return Ok(()) };
    if gate.early.is_empty() || !matches!(error, FirewallError::Other(_)) {
        return Err(error);
    }
    // Kernels before 5.10 and some devices have no such hook, and an interface may be missing. It only saves work:
    // the input chain drops too.
    let late = Gate { early: Vec::new(), ..gate.clone() };
    submit(&text(&late)).map_err(|_| error.clone())?;
    log::warn!("no early drop on {}: {error}", gate.early.join(", "));
    Ok(())
}

/// How much of our table is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// Its chains and their rules.
    Chains,
    /// Those and all that is open.
    Grants,
}

/// What there is of our table.
fn list(detail: Detail, now: Duration) -> Option<Listed> {
    let text = match detail {
        Detail::Chains => nft(&["-j", "-t", "list", "table", "inet", "spa_knock"], ""),
        Detail::Grants => nft(&["-j", "list", "table", "inet", "spa_knock"], ""),
    };
    text.ok().map(|text| live::read(&text, now))
}

fn describe(errno: i32) -> FirewallError {
    match Errno::from_raw(errno) {
        Errno::EPERM => FirewallError::NotAllowed,
        Errno::ENOENT => FirewallError::Gone,
        Errno::ENFILE => FirewallError::Full,
        // Of an interval: a part of it is there already.
        Errno::EEXIST | Errno::ENOTEMPTY => FirewallError::Overlap,
        other => FirewallError::Other(other.desc().to_lowercase()),
    }
}

fn submit(text: &str) -> Result<(), FirewallError> {
    match nft(&["-f", "-"], text) {
        Ok(_) => Ok(()),
        Err(RunError::NotFound(_)) => Err(FirewallError::NoProgram),
        Err(RunError::Failed { said, .. }) if said.contains("Operation not permitted") => {
            Err(FirewallError::NotAllowed)
        }
        Err(error) => Err(FirewallError::Other(error.to_string())),
    }
}

fn nft(args: &[&str], input: &str) -> Result<String, RunError> {
    capabilities::lend(&[Capability::NetAdmin], || runner::run_to_end("nft", args, input, NFT_MAX))
}
