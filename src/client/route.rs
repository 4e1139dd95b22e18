//! The way to the server: names to addresses, and sockets that hear nobody but the server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use super::failure::{Cause, Failure};
use crate::knock::{Addresses, canonical};
use crate::os::files::plain;

/// Which families of addresses may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Both.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// A connected socket: only datagrams from the server reach it.
pub(super) struct Route {
    /// The socket.
    pub(super) socket: UdpSocket,
    /// Where it is connected to.
    pub(super) server: SocketAddr,
    /// The own address that the kernel chose for it.
    pub(super) own: IpAddr,
}

impl Route {
    /// Finds the way to `server`. Sends nothing.
    pub(super) fn to(server: SocketAddr) -> io::Result<Self> {
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

/// The own outgoing address towards `address`, if there is a way. Sends nothing.
pub(super) fn own_towards(address: IpAddr) -> Option<IpAddr> {
    /// Any port will do: nothing is sent to it.
    const DISCARD: u16 = 9;
    Route::to(SocketAddr::new(address, DISCARD)).ok().map(|route| route.own)
}

/// The addresses of `host`, in the system's order of preference, but those that `claimed` has an address for first.
pub(super) fn resolve(
    host: &str,
    port: u16,
    family: Family,
    claimed: Option<Addresses>,
) -> Result<Vec<SocketAddr>, Failure> {
    let found: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| {
            Failure::new(Cause::Network, format!("{host}: {}", resolver_says(&error)))
                .hint("check the name, or give an address in the profile or the key file")
        })?
        .map(unmapped)
        .collect();
    let mut usable: Vec<_> = found.into_iter().filter(|address| family.takes(address.ip())).collect();
    if usable.is_empty() {
        let which = match family {
            Family::Any => "no address",
            Family::V4 => "no IPv4 address",
            Family::V6 => "no IPv6 address",
        };
        return Err(Failure::new(Cause::Network, format!("{host}: has {which}")));
    }
    if let Some(claimed) = claimed {
        // An exact knock of a family that it names no address of could only be refused.
        usable.sort_by_key(|address| match address {
            SocketAddr::V4(_) => claimed.ipv4().is_none(),
            SocketAddr::V6(_) => claimed.ipv6().is_none(),
        });
    }
    Ok(usable)
}

impl Family {
    /// Whether an address is of it.
    pub(super) const fn takes(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    match canonical(address.ip()) {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        // Kept whole: it may have a scope.
        IpAddr::V6(_) => address,
    }
}

fn resolver_says(error: &io::Error) -> String {
    let text = plain(error);
    text.strip_prefix("failed to lookup address information: ")
        .map_or_else(|| text.clone(), |reason| format!("cannot be resolved: {}", reason.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(host: &str, family: Family) -> Vec<String> {
        resolve(host, 62201, family, None).unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_need_no_resolver_and_a_mapped_one_is_ipv4() {
        assert_eq!(resolved("192.0.2.7", Family::Any), ["192.0.2.7:62201"]);
        assert_eq!(resolved("::ffff:192.0.2.7", Family::V4), ["192.0.2.7:62201"]);
        assert_eq!(resolved("2001:db8::7", Family::V6), ["[2001:db8::7]:62201"]);
    }

    #[test]
    fn a_family_without_an_address_is_an_error_of_the_network() {
        for (host, family) in [("192.0.2.7", Family::V6), ("::1", Family::V4)] {
            let failure = resolve(host, 1, family, None).unwrap_err();
            assert_eq!(failure.cause(), Cause::Network);
        }
    }

    #[test]
    fn the_own_address_towards_oneself_is_oneself() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(own_towards(here), Some(here));
    }
}
