//! A grant: who is let in to what, for how long, and by whose knock.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::knock::{ActionName, ClientName, PortRange, PortSpec, Prefix};

/// Some addresses are let in to something for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub(super) access: Access,
    pub(super) duration: Duration,
    pub(super) client: ClientName,
    pub(super) action: ActionName,
    /// How many passages the client may hold at a time; none = the limit is elsewhere.
    pub(super) limit: Option<u32>,
}

/// What a grant opens, and for which addresses. Two grants of one passage are one that is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// For whom.
    pub from: Prefix,
    /// For a link-local address: the index of the interface that it belongs to.
    pub link: Option<NonZeroU32>,
    /// What.
    pub target: AccessTarget,
}

/// What is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessTarget {
    /// Ports of this host, to any number of connections.
    Ports(PortRange),
    /// A port of this host, to one new connection.
    Once(PortSpec),
    /// A port of this host leads to another host, or to another port.
    Forward {
        /// The port that is connected to.
        door: PortSpec,
        /// Where that leads to; an unspecified address stands for this host.
        to: SocketAddr,
    },
}

impl Grant {
    /// What it opens, for whom.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// How many passages the client may hold at a time, if this knock's client has a limit.
    #[must_use]
    pub const fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// For how long.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.duration
    }

    /// Who knocked.
    #[must_use]
    pub const fn client(&self) -> &ClientName {
        &self.client
    }

    /// For what.
    #[must_use]
    pub const fn action(&self) -> &ActionName {
        &self.action
    }
}

impl Access {
    /// A passage for addresses that mean the same on every interface.
    #[must_use]
    pub const fn new(from: Prefix, way: AccessTarget) -> Self {
        Self { from, link: None, target: way }
    }

    /// The addresses as they are listed; of a link-local one with the index of its interface.
    #[must_use]
    pub fn source(&self) -> String {
        match self.link {
            Some(link) => format!("{}%{link}", self.from),
            None => self.from.to_string(),
        }
    }
}

/// Whether an address means another host on each interface (RFC 4291, section 2.5.6).
pub(super) const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(ports) => ports.fmt(f),
            Self::Once(door) => write!(f, "{door} once"),
            Self::Forward { door, to } if to.ip().is_unspecified() => {
                write!(f, "{door} to port {}", to.port())
            }
            Self::Forward { door, to } => write!(f, "{door} to {to}"),
        }
    }
}
