//! Kinds of grants. Each kind has sets of its own in the firewall, and each set has its own limit.

use spa_knock_core::auth::{Access, AccessTarget};

/// Capacity of a grant set, with nftables and with ipset.
pub(super) const SIZE: usize = 65_536;

/// The kind of an access, which selects its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GrantKind {
    /// One address to one port.
    Single,
    /// One address to a range of ports.
    Range,
    /// A prefix of addresses.
    Prefix,
    /// A link-local address on its interface.
    Linked,
    /// One connection.
    Once,
    /// A port that is forwarded to another host.
    Forward,
    /// A port that is redirected to another port of this host.
    Local,
    /// All packets of an address, diverted to another host.
    Divert,
    /// Packets that this host routes.
    Transit,
}

impl GrantKind {
    /// The kind of `access`.
    pub(super) fn of(access: &Access) -> Self {
        match access.target {
            _ if access.link.is_some() => Self::Linked,
            AccessTarget::Ports(_) if access.from.single().is_none() => Self::Prefix,
            AccessTarget::Ports(ports) if ports.single().is_none() => Self::Range,
            AccessTarget::Ports(_) => Self::Single,
            AccessTarget::Once(_) => Self::Once,
            AccessTarget::Forward { to, .. } if to.ip().is_unspecified() => Self::Local,
            AccessTarget::Forward { .. } => Self::Forward,
            AccessTarget::Divert(_) => Self::Divert,
            AccessTarget::Transit(_) => Self::Transit,
        }
    }

    /// Whether its entries are intervals, which must not overlap in one set.
    pub(super) const fn is_interval(self) -> bool {
        matches!(self, Self::Range | Self::Prefix | Self::Linked)
    }

    /// How many accesses fill a set up to its reserve, an eighth. Where ranges overlap, one access can need two
    /// intervals.
    pub(super) const fn room(self) -> usize {
        let unreserved = SIZE - SIZE / 8;
        if self.is_interval() { unreserved / 2 } else { unreserved }
    }
}
