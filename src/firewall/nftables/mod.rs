//! nftables: a table of our own, loaded with `nft` in one transaction; grants go over netlink.

mod batch;
mod held;
mod live;
mod ruleset;

use std::time::Duration;

use self::held::{Change, Held};
use super::{Backend, Closed, FirewallError, Gate};
use crate::gate::Grant;
use crate::knock::ClientName;
use crate::os::clock;
use crate::os::netlink::Netlink;
use crate::os::runner::{self, RunError};

/// How long loading may take before it counts as failed.
const NFT_MAX: Duration = Duration::from_secs(10);

/// The table `inet spa_knock`.
pub struct Nftables {
    netlink: Netlink,
    sequence: u32,
    held: Held,
    /// Whether what an earlier daemon granted has been taken up.
    adopted: bool,
}

impl Nftables {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn open() -> Result<Self, FirewallError> {
        let netlink = Netlink::open().map_err(|error| FirewallError::Other(format!("netlink: {error}")))?;
        Ok(Self { netlink, sequence: 0, held: Held::default(), adopted: false })
    }
}

impl Backend for Nftables {
    fn load(&mut self, gate: &Gate) -> Result<(), FirewallError> {
        self.close_gate(gate)?;
        if !std::mem::replace(&mut self.adopted, true) {
            self.adopt();
        }
        Ok(())
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        let now = clock::steady();
        let changes: Vec<_> = grants.iter().map(|grant| self.held.with(grant, now)).collect();
        let granted = self.transact(&changes, now);
        match granted {
            Ok(()) => self.held.note(grants, now),
            Err(FirewallError::Gone) => self.held = Held::default(),
            Err(_) => {}
        }
        granted
    }

    fn close(&mut self, gone: &dyn Fn(&ClientName) -> bool) -> Result<Vec<Closed>, FirewallError> {
        let now = clock::steady();
        let (changes, closed) = self.held.without(gone, now);
        if !changes.is_empty() {
            self.transact(&changes, now)?;
        }
        self.held.forget(gone);
        Ok(closed)
    }
}

impl Nftables {
    fn close_gate(&self, gate: &Gate) -> Result<(), FirewallError> {
        let Err(error) = nft(&ruleset::text(gate)) else { return Ok(()) };
        if gate.early.is_empty() || !matches!(error, FirewallError::Other(_)) {
            return Err(error);
        }
        // Kernels before 5.10 and some devices have no such hook, and an interface may be missing. It only saves
        // work: the input chain drops too.
        let late = Gate { early: Vec::new(), ..gate.clone() };
        nft(&ruleset::text(&late)).map_err(|_| error.clone())?;
        log::warn!("no early drop on {}: {error}", gate.early.join(", "));
        Ok(())
    }

    /// Takes up what an earlier daemon granted: it must not be shortened either, and may have to be closed.
    fn adopt(&mut self) {
        let now = clock::steady();
        match runner::run_to_end("nft", &["-j", "list", "table", "inet", "spa_knock"], "", NFT_MAX) {
            Ok(text) => {
                for (address, door, holder) in live::read(&text, now) {
                    self.held.hold(address, door, holder);
                }
            }
            Err(error) => log::warn!("firewall: live grants of an earlier daemon are not known: {error}"),
        }
    }

    fn transact(&mut self, changes: &[Change], now: Duration) -> Result<(), FirewallError> {
        let failed = |error| FirewallError::Other(format!("netlink: {error}"));
        self.sequence = self.sequence.wrapping_add(1);
        let messages = batch::changes(changes, now, self.sequence)
            .ok_or(FirewallError::Other("too many grants at once".to_owned()))?;
        self.netlink.send(&messages).map_err(failed)?;
        let mut acknowledged = false;
        let mut buffer = [0; 8192];
        // The kernel has done its work: all answers are there. What an earlier batch left behind is passed over.
        while let Some(length) = self.netlink.try_recv(&mut buffer).map_err(failed)? {
            for (sequence, errno) in batch::answers(buffer.get(..length).unwrap_or_default()) {
                match errno {
                    _ if sequence != self.sequence => {}
                    0 => acknowledged = true,
                    errno => return Err(describe(errno)),
                }
            }
        }
        if acknowledged { Ok(()) } else { Err(FirewallError::Other("netlink: no answer".to_owned())) }
    }
}

fn describe(errno: i32) -> FirewallError {
    match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::EPERM => FirewallError::NotAllowed,
        nix::errno::Errno::ENOENT => FirewallError::Gone,
        nix::errno::Errno::ENFILE => FirewallError::Full,
        other => FirewallError::Other(other.desc().to_lowercase()),
    }
}

fn nft(text: &str) -> Result<(), FirewallError> {
    match runner::run_to_end("nft", &["-f", "-"], text, NFT_MAX) {
        Ok(_) => Ok(()),
        Err(RunError::NotFound(_)) => Err(FirewallError::NoProgram),
        Err(RunError::Failed { said, .. }) if said.contains("Operation not permitted") => {
            Err(FirewallError::NotAllowed)
        }
        Err(error) => Err(FirewallError::Other(error.to_string())),
    }
}
