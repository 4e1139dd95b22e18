//! Routes to the server: name resolution, and sockets that receive datagrams from the server only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use clap::CommandFactory as _;

use crate::client::args::{Cli, CommonArgs};
use crate::client::failure::{ClientError, ExitCause};
use crate::os::files::io_error_text;
use spa_knock_core::knock::{Addresses, canonical};

/// The address families that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum FamilyFilter {
    /// Both.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// A connected socket, which receives datagrams from the server only.
pub(in crate::client) struct Route {
    /// The connected socket.
    pub(in crate::client) socket: UdpSocket,
    /// The address that it is connected to.
    pub(in crate::client) server: SocketAddr,
    /// The local address that the kernel chose for it.
    pub(in crate::client) own: IpAddr,
}

impl Route {
    /// Finds the route to `server`. Sends nothing.
    pub(in crate::client) fn to(server: SocketAddr) -> io::Result<Self> {
        let any = match server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        let own = canonical(socket.local_addr()?.ip());
        Ok(Self { socket, server, own })
    }
}

/// Sends a datagram through a connected socket.
pub(in crate::client) fn put(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    match socket.send(bytes) {
        // ICMP reported this error for an earlier datagram; the current one has not been sent yet. Windows names it
        // ConnectionReset.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) =>
        {
            socket.send(bytes)
        }
        result => result,
    }
    .map(drop)
}

/// The local outgoing address toward `address`, if there is a route. Sends nothing.
pub(in crate::client) fn local_address_toward(address: IpAddr) -> Option<IpAddr> {
    /// An arbitrary port: nothing is sent to it.
    const DISCARD: u16 = 9;
    Route::to(SocketAddr::new(address, DISCARD)).ok().map(|route| route.own)
}

/// The addresses of `host`, in the order in which they are tried: the system's order (RFC 6724), with the families
/// alternating (RFC 8305, section 4). Leaves out families for which `claimed` has no address, unless there are no
/// others.
///
/// # Errors
/// If the name cannot be resolved, or has no address of the family.
pub(in crate::client) fn resolve(
    host: &str,
    port: u16,
    family: FamilyFilter,
    claimed: Option<Addresses>,
) -> Result<Vec<SocketAddr>, ClientError> {
    let host = unbracketed(host);
    let found: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| {
            ClientError::new(ExitCause::Network, format!("{host}: {}", resolver_error(&error))).hint(
                if Cli::command().find_subcommand(host).is_some() {
                    format!("put the subcommand before its options: spa-knock {host} …")
                } else {
                    "check the name, or set an address in the profile or the key file".to_owned()
                },
            )
        })?
        .map(unmapped)
        .collect();
    let mut usable: Vec<SocketAddr> = Vec::new();
    for address in found.into_iter().filter(|address| family.contains(address.ip())) {
        if !usable.contains(&address) {
            usable.push(address);
        }
    }
    if usable.is_empty() {
        let which = match family {
            FamilyFilter::Any => "no address",
            FamilyFilter::V4 => "no IPv4 address",
            FamilyFilter::V6 => "no IPv6 address",
        };
        return Err(ClientError::new(ExitCause::Network, format!("{host}: has {which}")));
    }
    let Some(claimed) = claimed else { return Ok(interleaved(usable)) };
    // Over another family, a knock with the exact policy would be refused.
    let (named, others): (Vec<_>, Vec<_>) = usable.into_iter().partition(|address| match address {
        SocketAddr::V4(_) => claimed.ipv4().is_some(),
        SocketAddr::V6(_) => claimed.ipv6().is_some(),
    });
    Ok(interleaved(if named.is_empty() { others } else { named }))
}

impl FamilyFilter {
    /// As set by `-4` and `-6`.
    pub(in crate::client) const fn of(args: &CommonArgs) -> Self {
        match (args.ipv4, args.ipv6) {
            (true, _) => Self::V4,
            (false, true) => Self::V6,
            (false, false) => Self::Any,
        }
    }

    /// Whether an address is of this family.
    pub(in crate::client) const fn contains(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Removes the brackets that URLs and scp put around an IPv6 address; returns other names unchanged.
pub(in crate::client) fn unbracketed(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_ipv6 = |inner: &&str| inner.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    inner.filter(is_ipv6).unwrap_or(host)
}

/// Alternates between the families, beginning with the one that the system prefers; keeps the order within a family.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = addresses.first().map(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| Some(address.is_ipv4()) == preferred);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    match canonical(address.ip()) {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        // Unchanged, because it may have a scope.
        IpAddr::V6(_) => address,
    }
}

fn resolver_error(error: &io::Error) -> String {
    let text = io_error_text(error);
    text.strip_prefix("failed to lookup address information: ")
        .map_or_else(|| text.clone(), |reason| format!("cannot be resolved: {}", reason.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(host: &str, family: FamilyFilter) -> Vec<String> {
        resolve(host, 62201, family, None).unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_need_no_resolver_and_a_mapped_address_is_ipv4() {
        assert_eq!(resolved("192.0.2.7", FamilyFilter::Any), ["192.0.2.7:62201"]);
        assert_eq!(resolved("::ffff:192.0.2.7", FamilyFilter::V4), ["192.0.2.7:62201"]);
        assert_eq!(resolved("2001:db8::7", FamilyFilter::V6), ["[2001:db8::7]:62201"]);
        assert_eq!(resolved("[2001:db8::7]", FamilyFilter::Any), ["[2001:db8::7]:62201"]);
        assert_eq!(unbracketed("[fe80::1%eth0]"), "fe80::1%eth0");
        for name in ["[host]", "[192.0.2.7]", "[::1", "::1]"] {
            assert_eq!(unbracketed(name), name);
        }
    }

    #[test]
    fn a_host_without_an_address_of_the_family_is_a_network_error() {
        for (host, family) in [("192.0.2.7", FamilyFilter::V6), ("::1", FamilyFilter::V4)] {
            let failure = resolve(host, 1, family, None).unwrap_err();
            assert_eq!(failure.cause(), ExitCause::Network);
        }
    }

    #[test]
    fn the_families_alternate_beginning_with_the_systems_first_choice() {
        let order = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 1)).collect();
            interleaved(addresses).iter().map(|address| address.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            order(&["::1", "::2", "::3", "1.1.1.1", "2.2.2.2"]),
            ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]
        );
        assert_eq!(order(&["1.1.1.1", "2.2.2.2", "::1"]), ["1.1.1.1", "::1", "2.2.2.2"]);
        assert_eq!(order(&["1.1.1.1", "2.2.2.2"]), ["1.1.1.1", "2.2.2.2"]);
        assert_eq!(order(&[]), [""; 0]);
    }

    #[test]
    fn the_local_address_toward_the_loopback_is_the_loopback() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(local_address_toward(here), Some(here));
    }
}
