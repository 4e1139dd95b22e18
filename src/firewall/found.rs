//! Finds and removes the gates in the kernel, of any backend and no matter which process loaded them. Used when no
//! daemon runs.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{FirewallError, Iptables, Nftables};
use spa_knock_core::knock::{ClientName, PortRange};

/// A gate, by the kind of rules that it consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GateKind {
    /// The table `inet spa_knock`.
    Nftables,
    /// Chains in iptables and ip6tables.
    Iptables,
}

impl GateKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// Whether the kernel has this gate. A missing program counts as "no".
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn is_loaded(self) -> Result<bool, FirewallError> {
        match self {
            Self::Nftables => Nftables::is_loaded(),
            Self::Iptables => Iptables::is_loaded(),
        }
    }

    /// Removes the gate and all its grants.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(self) -> Result<(), FirewallError> {
        match self {
            Self::Nftables => Nftables::remove_table(),
            Self::Iptables => Iptables::remove_all(),
        }
    }

    /// The ports that only a grant opens, read from the kernel's rules.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn closed_ports(self) -> Result<Vec<PortRange>, FirewallError> {
        match self {
            Self::Nftables => Nftables::closed_ports(),
            Self::Iptables => Iptables::closed_ports(),
        }
    }

    /// Opens these ports for an address for a time. `comment` is stored with the grant and shown in listings of the
    /// kernel's grants.
    ///
    /// # Errors
    /// When the kernel refuses, or would not close the ports again.
    pub fn grant_unconfirmed(
        self,
        address: IpAddr,
        ports: &[PortRange],
        time: Duration,
        comment: &str,
    ) -> Result<(), FirewallError> {
        match self {
            Self::Nftables => Nftables::grant_unconfirmed(address, ports, time, comment),
            Self::Iptables => Iptables::grant_unconfirmed(address, ports, time, comment),
        }
    }

    /// Closes the grants that carry this client's name in the kernel, and returns their number. A grant that another
    /// client holds as well is closed too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close_client(self, client: &ClientName) -> Result<usize, FirewallError> {
        match self {
            Self::Nftables => Nftables::close_client(client),
            Self::Iptables => Iptables::close_client(client),
        }
    }

    /// The command that removes the gate.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Nftables => "nft delete table inet spa_knock",
            Self::Iptables => {
                "iptables -D INPUT -m comment --comment spa-knock -j SPA_KNOCK; ip6tables likewise"
            }
        }
    }
}

impl fmt::Display for GateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables table inet spa_knock",
            Self::Iptables => "iptables chains SPA_KNOCK",
        })
    }
}

/// The gates in the kernel, and those that could not be checked.
#[derive(Debug, Default)]
pub struct LoadedGates {
    /// Gates that are loaded.
    pub kinds: Vec<GateKind>,
    /// Gates that could not be checked, and why.
    pub unknown: Vec<(GateKind, FirewallError)>,
}

impl LoadedGates {
    /// Checks for all kinds of gates.
    #[must_use]
    pub fn find() -> Self {
        let mut found = Self::default();
        for kind in GateKind::ALL {
            match kind.is_loaded() {
                Ok(true) => found.kinds.push(kind),
                Ok(false) => {}
                Err(error) => found.unknown.push((kind, error)),
            }
        }
        found
    }
}
