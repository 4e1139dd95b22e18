//! How the address to grant is chosen, and the canonical forms of addresses.

use std::net::{IpAddr, Ipv6Addr};

/// Selects the address that the server grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressPolicy {
    /// The source address of the datagram.
    Observed,
    /// The source address of the datagram, but only if it equals the embedded address of the same family.
    Exact,
    /// Every embedded address, regardless of the datagram's source.
    Listed,
}

impl AddressPolicy {
    /// The policy's name in configs and on the command line.
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

/// Converts `::ffff:a.b.c.d` to the IPv4 address `a.b.c.d`, so that both compare equal everywhere.
#[must_use]
pub const fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The address as IPv6: an IPv4 address becomes `::ffff:a.b.c.d`.
#[must_use]
pub const fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
