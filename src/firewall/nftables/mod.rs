//! nftables: a table of our own, loaded with `nft` in one transaction; grants go over netlink.

mod batch;
mod ends;
mod ruleset;

use std::time::Duration;

use self::ends::Ends;
use super::{Backend, FirewallError, Gate};
use crate::gate::Grant;
use crate::os::clock;
use crate::os::netlink::Netlink;
use crate::os::runner::{self, RunError};

/// How long loading may take before it counts as failed.
const NFT_MAX: Duration = Duration::from_secs(10);

/// The table `inet spa_knock`.
pub struct Nftables {
    netlink: Netlink,
    sequence: u32,
    ends: Ends,
}

impl Nftables {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn open() -> Result<Self, FirewallError> {
        let netlink = Netlink::open().map_err(|error| FirewallError::Other(format!("netlink: {error}")))?;
        Ok(Self { netlink, sequence: 0, ends: Ends::default() })
    }
}

impl Backend for Nftables {
    fn load(&mut self, gate: &Gate) -> Result<(), FirewallError> {
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

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        let now = clock::steady();
        let lasting: Vec<_> = grants.iter().map(|grant| (grant, self.ends.lasting(grant, now))).collect();
        let granted = self.transact(&lasting);
        match granted {
            Ok(()) => self.ends.note(&lasting, now),
            Err(FirewallError::Gone) => self.ends = Ends::default(),
            Err(_) => {}
        }
        granted
    }
}

impl Nftables {
    fn transact(&mut self, grants: &[(&Grant, Duration)]) -> Result<(), FirewallError> {
        let failed = |error| FirewallError::Other(format!("netlink: {error}"));
        self.sequence = self.sequence.wrapping_add(1);
        let messages = batch::grants(grants, self.sequence)
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
