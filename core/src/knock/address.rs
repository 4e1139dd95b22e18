//! Whose address a knock asks to be let in.

use std::net::{IpAddr, Ipv6Addr};

/// How the server finds the address to grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressPolicy {
    /// The address that the datagram came from.
    Observed,
    /// The address that the datagram came from, and only if it equals the embedded one of its family.
    Exact,
    /// Every embedded address, whatever the datagram came from.
    Listed,
}

impl AddressPolicy {
    /// The word for it in configs and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Exact => "exact",
            Self::Listed => "listed",
        }
    }
}

impl std::fmt::Display for AddressPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `::ffff:a.b.c.d` is the IPv4 address `a.b.c.d` everywhere.
#[must_use]
pub const fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The address as IPv6: an IPv4 one becomes `::ffff:a.b.c.d`.
#[must_use]
pub const fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
