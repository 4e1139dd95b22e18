//! A grant: who is let in to what, for how long, and by whose knock.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::knock::{ActionName, ClientName, Door, Ports, Prefix};

/// Some addresses are let in to something for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub(super) passage: Passage,
    pub(super) duration: Duration,
    pub(super) client: ClientName,
    pub(super) action: ActionName,
}

/// What a grant opens, and for which addresses. Two grants of one passage are one that is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Passage {
    /// For whom.
    pub from: Prefix,
    /// What.
    pub way: Way,
}

/// What is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Ports of this host, to any number of connections.
    Ports(Ports),
    /// A port of this host, to one new connection.
    Once(Door),
    /// A port of this host leads to another host, or to another port.
    Forward {
        /// The port that is connected to.
        door: Door,
        /// Where that leads to; an unspecified address stands for this host.
        to: SocketAddr,
    },
}

impl Grant {
    /// What it opens, for whom.
    #[must_use]
    pub const fn passage(&self) -> Passage {
        self.passage
    }

    /// The same, with a grant of its own for each port of a range.
    pub fn port_by_port(&self) -> impl Iterator<Item = Self> {
        let Passage { from, way } = self.passage;
        let (ports, other) = match way {
            Way::Ports(ports) => (Some(ports), None),
            Way::Once(_) | Way::Forward { .. } => (None, Some(way)),
        };
        let ways = ports.into_iter().flat_map(|ports| ports.each().map(|door| Way::Ports(door.into())));
        ways.chain(other).map(move |way| Self { passage: Passage { from, way }, ..self.clone() })
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

impl fmt::Display for Way {
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
