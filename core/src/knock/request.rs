//! What a client asks of a server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ActionName, AddressPolicy, Argument, Timestamp};

/// Whether the client waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyWanted {
    /// The server may answer.
    Yes,
    /// The server must stay silent.
    No,
}

/// Everything that a knock says. Public fields: any combination is a knock, whether it is allowed is policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// When the client made it.
    pub timestamp: Timestamp,
    /// Whether the client waits for an answer.
    pub reply: ReplyWanted,
    /// Seconds asked for; 0 = the action's own.
    pub seconds: u32,
    /// One-time password (RFC 6238) as a number.
    pub otp: Option<u32>,
    /// How the address to grant is found.
    pub policy: AddressPolicy,
    /// The client's IPv4 address, as it knows it.
    pub ipv4: Option<Ipv4Addr>,
    /// The client's IPv6 address, as it knows it.
    pub ipv6: Option<Ipv6Addr>,
    /// What is asked for.
    pub action: ActionName,
    /// What the action is told besides.
    pub argument: Argument,
}

impl Knock {
    /// The embedded address of the family of `other`.
    #[must_use]
    pub fn embedded_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }

    /// The embedded addresses, IPv4 first.
    pub fn embedded(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}
