//! Which gates of ours the kernel has, whoever loaded them and with whatever backend; and how they are removed when no
//! daemon does it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{FirewallError, Iptables, Nftables};
use spa_knock_core::knock::{ClientName, PortRange};

/// A gate by what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GateKind {
    /// The table `inet spa_knock`.
    Nftables,
    /// Chains in iptables and ip6tables.
    Iptables,
}

impl GateKind {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// Whether the kernel has it. Where its program is missing it has none.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_loaded(self) -> Result<bool, FirewallError> {
        match self {
            Self::Nftables => Nftables::is_loaded(),
            Self::Iptables => Iptables::is_loaded(),
        }
    }

    /// Removes it with all its grants.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn remove(self) -> Result<(), FirewallError> {
        match self {
            Self::Nftables => Nftables::remove_table(),
            Self::Iptables => Iptables::remove_all(),
        }
    }

    /// The ports that only a grant opens, as the kernel's rules name them.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn closed_ports(self) -> Result<Vec<PortRange>, FirewallError> {
        match self {
            Self::Nftables => Nftables::closed_ports(),
            Self::Iptables => Iptables::closed_ports(),
        }
    }

    /// Lets an address in to these ports for a time. Whoever lists the kernel's grants reads `comment`.
    ///
    /// # Errors
    /// When the kernel does not do it, or would not close them again.
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

    /// Closes what the kernel names by this client; how much that was. What another client holds too is closed with it.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn close_client(self, client: &ClientName) -> Result<usize, FirewallError> {
        match self {
            Self::Nftables => Nftables::close_client(client),
            Self::Iptables => Iptables::close_client(client),
        }
    }

    /// How to remove it by hand.
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

/// The gates that the kernel has, and what could not be looked at.
#[derive(Debug, Default)]
pub struct LoadedGates {
    /// Those that it has.
    pub kinds: Vec<GateKind>,
    /// Those that could not be looked for, and why.
    pub unknown: Vec<(GateKind, FirewallError)>,
}

impl LoadedGates {
    /// Looks for all of them.
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
