//! A grant: which addresses may reach what, for how long, and whose knock it is from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::route::{SourceTranslation, TransitRoute};
use crate::knock::{ActionName, ClientName, PortRange, PortSpec, Prefix};

/// Permission for an address or prefix to reach a target for a limited time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub(super) access: Access,
    pub(super) duration: Duration,
    pub(super) client: ClientName,
    pub(super) action: ActionName,
    /// How many grants the client may hold at the same time; `None` if this is limited elsewhere.
    pub(super) limit: Option<u32>,
}

/// The target and the source addresses of a grant. Two grants with the same access are one grant that is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// The addresses that are granted access.
    pub from: Prefix,
    /// For a link-local address: the index of its interface.
    pub link: Option<NonZeroU32>,
    /// The ports that they may reach.
    pub target: AccessTarget,
}

/// The ports that a grant opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessTarget {
    /// Ports of this host, for any number of connections.
    Ports(PortRange),
    /// A port of this host, for one new connection.
    Once(PortSpec),
    /// A port of this host that is forwarded to another host or to another port.
    Forward {
        /// The port on this host.
        port: PortSpec,
        /// The forward target; an unspecified address means this host.
        to: SocketAddr,
    },
    /// All packets to or through this host, whatever their destination, which is replaced by this host. IPv4 only.
    Divert(Ipv4Addr),
    /// Packets that this host routes. IPv4 only.
    Transit(TransitRoute),
}

impl AccessTarget {
    /// The first in order of all targets that do the same as this one in another way, which are consecutive: an address
    /// can have only one of them at a time. `None` if this target excludes no other.
    #[must_use]
    pub fn first_alternative(self) -> Option<Self> {
        match self {
            Self::Ports(_) | Self::Once(_) => None,
            Self::Forward { port, .. } => {
                Some(Self::Forward { port, to: SocketAddr::from(([0, 0, 0, 0], 0)) })
            }
            Self::Divert(_) => Some(Self::Divert(Ipv4Addr::UNSPECIFIED)),
            Self::Transit(route) => {
                Some(Self::Transit(TransitRoute { source: SourceTranslation::Kept, ..route }))
            }
        }
    }
}

impl Grant {
    /// The target and the source addresses.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// How many grants the client may hold at the same time, if it has a limit.
    #[must_use]
    pub const fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// The duration of the grant.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.duration
    }

    /// The client that knocked.
    #[must_use]
    pub const fn client(&self) -> &ClientName {
        &self.client
    }

    /// The action that the client requested.
    #[must_use]
    pub const fn action(&self) -> &ActionName {
        &self.action
    }
}

impl Access {
    /// Access from addresses that mean the same host on every interface.
    #[must_use]
    pub const fn new(from: Prefix, target: AccessTarget) -> Self {
        Self { from, link: None, target }
    }

    /// Whether the other does the same for the same addresses in another way, such as a forward of the same port to another
    /// target: only one of them can be active.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        let same = self.target.first_alternative();
        (other.from, other.link) == (self.from, self.link)
            && other.target != self.target
            && same.is_some()
            && other.target.first_alternative() == same
    }

    /// The addresses as they are listed; a link-local one with the index of its interface.
    #[must_use]
    pub fn source(&self) -> String {
        match self.link {
            Some(link) => format!("{}%{link}", self.from),
            None => self.from.to_string(),
        }
    }
}

/// Whether an address can belong to a different host on each interface (RFC 4291, section 2.5.6).
pub(super) const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(ports) => ports.fmt(f),
            Self::Once(port) => write!(f, "{port} once"),
            Self::Forward { port, to } if to.ip().is_unspecified() => {
                write!(f, "{port} to port {}", to.port())
            }
            Self::Forward { port, to } => write!(f, "{port} to {to}"),
            Self::Divert(to) => write!(f, "all packets to {to}"),
            Self::Transit(route) => route.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TransitPort;

    fn targets() -> Vec<AccessTarget> {
        let port = |text: &str| text.parse::<PortSpec>().unwrap();
        let forward =
            |from: &str, to: &str| AccessTarget::Forward { port: port(from), to: to.parse().unwrap() };
        let transit = |to: Option<&str>, source| {
            let to = to.map(|to| TransitPort { host: Ipv4Addr::new(10, 0, 0, 5), port: port(to) });
            AccessTarget::Transit(TransitRoute { to, source })
        };
        vec![
            AccessTarget::Ports("tcp/22".parse().unwrap()),
            AccessTarget::Ports("tcp/80".parse().unwrap()),
            AccessTarget::Once(port("tcp/22")),
            AccessTarget::Once(port("tcp/80")),
            forward("tcp/80", "10.0.0.5:80"),
            forward("tcp/80", "0.0.0.0:8080"),
            forward("tcp/443", "10.0.0.5:80"),
            AccessTarget::Divert(Ipv4Addr::new(10, 0, 0, 5)),
            AccessTarget::Divert(Ipv4Addr::new(10, 0, 0, 6)),
            transit(None, SourceTranslation::Kept),
            transit(None, SourceTranslation::Masquerade),
            transit(Some("tcp/80"), SourceTranslation::Kept),
            transit(Some("tcp/80"), SourceTranslation::Address(Ipv4Addr::new(10, 0, 0, 1))),
            transit(Some("tcp/443"), SourceTranslation::Masquerade),
        ]
    }

    /// The oracle: whether both targets are of one kind for the same packets.
    fn same_packets(one: AccessTarget, other: AccessTarget) -> bool {
        match (one, other) {
            (AccessTarget::Forward { port: one, .. }, AccessTarget::Forward { port: other, .. }) => {
                one == other
            }
            (AccessTarget::Divert(_), AccessTarget::Divert(_)) => true,
            (AccessTarget::Transit(one), AccessTarget::Transit(other)) => one.to == other.to,
            _ => false,
        }
    }

    #[test]
    fn an_access_excludes_another_one_that_does_otherwise_with_the_same_packets() {
        let [here, there] = ["10.0.0.1/32", "10.0.0.2/32"].map(|from| from.parse::<Prefix>().unwrap());
        for one in targets() {
            for other in targets() {
                let expected = one != other && same_packets(one, other);
                let access = Access::new(here, one);
                assert_eq!(access.excludes(&Access::new(here, other)), expected, "{one} {other}");
                assert!(!access.excludes(&Access::new(there, other)), "another address: {one} {other}");
                let on_link = Access { link: NonZeroU32::new(2), ..Access::new(here, other) };
                assert!(!access.excludes(&on_link), "another interface: {one} {other}");
            }
        }
    }

    #[test]
    fn the_alternatives_of_a_target_follow_their_first_one_in_order() {
        let targets = targets();
        for &target in &targets {
            let Some(first) = target.first_alternative() else { continue };
            assert!(first <= target && same_packets(first, target), "{target}");
            let between = targets.iter().filter(|other| (first..=target).contains(other));
            assert!(between.clone().all(|other| same_packets(*other, target)), "{target}");
        }
        let with_alternatives = targets.iter().filter(|target| target.first_alternative().is_some());
        assert_eq!(with_alternatives.count(), targets.len() - 4, "all but open ports");
    }

    #[test]
    fn a_source_is_listed_with_its_interface_if_it_has_one() {
        let target = AccessTarget::Ports("tcp/22".parse().unwrap());
        let access = |from: &str| Access::new(from.parse().unwrap(), target);
        assert_eq!(access("10.0.0.0/8").source(), "10.0.0.0/8");
        assert_eq!(access("fe80::1").source(), "fe80::1");
        assert_eq!(Access { link: NonZeroU32::new(3), ..access("fe80::1") }.source(), "fe80::1%3");
    }

    #[test]
    fn each_target_is_described_by_its_ports_and_its_destination() {
        let expected = [
            "tcp/22",
            "tcp/80",
            "tcp/22 once",
            "tcp/80 once",
            "tcp/80 to 10.0.0.5:80",
            "tcp/80 to port 8080",
            "tcp/443 to 10.0.0.5:80",
            "all packets to 10.0.0.5",
            "all packets to 10.0.0.6",
            "all routed packets",
            "all routed packets, masqueraded",
            "tcp/80 of 10.0.0.5",
            "tcp/80 of 10.0.0.5, as 10.0.0.1",
            "tcp/443 of 10.0.0.5, masqueraded",
        ];
        assert_eq!(targets().iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }
}
