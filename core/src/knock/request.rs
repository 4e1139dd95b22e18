//! What a client requests from a server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ActionName, AddressPolicy, Argument, Timestamp};

/// Whether the client requests a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyWanted {
    /// The server may reply.
    Yes,
    /// The server must not reply.
    No,
}

/// The content of a knock. The fields are public because every combination is a valid knock; policy decides whether it
/// is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// When the client created the knock.
    pub timestamp: Timestamp,
    /// Whether the client requests a reply.
    pub reply: ReplyWanted,
    /// Requested duration in seconds; 0 selects the action's default.
    pub seconds: u32,
    /// One-time password (RFC 6238) as a number.
    pub otp: Option<u32>,
    /// How the address to grant is chosen.
    pub policy: AddressPolicy,
    /// The client's IPv4 address, as it knows it.
    pub ipv4: Option<Ipv4Addr>,
    /// The client's IPv6 address, as it knows it.
    pub ipv6: Option<Ipv6Addr>,
    /// The requested action.
    pub action: ActionName,
    /// The argument of the action.
    pub argument: Argument,
}

impl Knock {
    /// The embedded address of the same family as `other`.
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

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A knock for the sender's own address, without a reply.
    pub(crate) fn open_ssh(timestamp: Timestamp) -> Knock {
        Knock {
            timestamp,
            reply: ReplyWanted::No,
            seconds: 0,
            otp: None,
            policy: AddressPolicy::Observed,
            ipv4: None,
            ipv6: None,
            action: "open-ssh".parse().unwrap(),
            argument: Argument::none(),
        }
    }
}
