//! What closes ports and opens them for one address.

mod nftables;
mod none;

pub use nftables::Nftables;
pub use none::NoFirewall;

use std::net::IpAddr;

use crate::gate::{Event, Grant, KeyAge, Record};
use crate::knock::{ActionName, ClientName, Door};
use crate::os::connections::Connection;

/// A firewall that can be ours in part.
pub trait Backend {
    /// Closes the gate: from now on only a grant opens a protected port. Live grants stay. Loading it again
    /// takes over what has changed, in one step.
    ///
    /// # Errors
    /// When the firewall does not take it; nothing has changed then.
    fn load(&mut self, gate: &Gate) -> Result<(), FirewallError>;

    /// Lets each address in to its door for its time; a live grant starts anew. All of them or none.
    ///
    /// # Errors
    /// When the firewall does not take them.
    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError>;

    /// Closes what is open for these clients and for nobody else. Returns what that was.
    ///
    /// # Errors
    /// When the firewall does not do it; all of it is open then.
    fn close(&mut self, gone: &dyn Fn(&ClientName) -> bool) -> Result<Vec<Closed>, FirewallError>;
}

/// A grant that was ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Whose it was.
    pub client: ClientName,
    /// By which action.
    pub action: ActionName,
    /// Who was let in.
    pub address: IpAddr,
}

impl Closed {
    /// The record of that.
    #[must_use]
    pub fn record(self) -> Record {
        Record {
            event: Event::Revoked,
            client: self.client,
            key: KeyAge::Current,
            action: Some(self.action),
            addresses: vec![self.address],
            source: None,
            seconds: 0,
            reason: None,
            knock: None,
        }
    }
}

/// What the gate consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gate {
    /// Ports that only a grant opens.
    pub protect: Vec<Door>,
    /// The knock port, if datagrams to it are to be dropped without an answer because they are captured.
    pub silent_port: Option<u16>,
    /// Interfaces on which they are dropped as early as can be.
    pub early: Vec<String>,
    /// TCP connections that are older than the gate and must live on.
    pub older: Vec<Connection>,
}

/// The firewall did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallError {
    /// The program that loads it is not there.
    #[error("firewall: nft not found\nhint: apt install nftables (or set firewall.backend = \"none\")")]
    NoProgram,
    /// We may not.
    #[error("firewall: not allowed to change it (CAP_NET_ADMIN is missing)\nhint: run as root")]
    NotAllowed,
    /// The table is not there (any more).
    #[error("firewall: our table is gone (was the ruleset flushed?)")]
    Gone,
    /// A set can take no more.
    #[error("firewall: the set of grants is full")]
    Full,
    /// Anything else.
    #[error("firewall: {0}")]
    Other(String),
}
