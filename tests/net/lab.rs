//! The two networks in which tests run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Namespace, ask};

pub(crate) const KNOCK_PORT: u16 = 62201;

pub(crate) const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
pub(crate) const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
pub(crate) const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
pub(crate) const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
pub(crate) const NEIGHBOR4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2));
pub(crate) const NEIGHBOR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 2));
/// The client's and the server's address of each IP version.
pub(crate) const BOTH: [(IpAddr, IpAddr); 2] = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)];
/// The address that the server sees for a client behind the router.
pub(crate) const ROUTER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));

/// A server with two interfaces: the client is at `lan0`, the neighbor at `lan1`.
pub(crate) struct Lab {
    pub(crate) server: Namespace,
    pub(crate) client: Namespace,
    pub(crate) neighbor: Namespace,
}

impl Lab {
    /// Returns `None` and prints a line if the user is not root and so cannot create namespaces.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let [server, client, neighbor] = [(); 3].map(|()| Namespace::new());
        server.cable(
            ("lan0", &["10.77.0.1/24", "fd77::1/64"]),
            &client,
            ("eth0", &["10.77.0.2/24", "fd77::2/64"]),
        );
        server.cable(
            ("lan1", &["10.77.1.1/24", "fd77:0:0:1::1/64"]),
            &neighbor,
            ("eth0", &["10.77.1.2/24", "fd77:0:0:1::2/64"]),
        );
        neighbor.ip("route add default via 10.77.1.1");
        neighbor.ip("-6 route add default via fd77:0:0:1::1");
        Some(Self { server, client, neighbor })
    }

    /// Whether a knock gets a reply. It is sent from a new port, for which no reply is stored.
    pub(crate) fn gets_reply(&self, datagram: &[u8]) -> bool {
        ask(&self.client.udp(CLIENT4), SERVER4, datagram).is_some()
    }
}

/// A client behind a router that translates its address.
pub(crate) struct NatLab {
    pub(crate) server: Namespace,
    pub(crate) router: Namespace,
    pub(crate) client: Namespace,
}

impl NatLab {
    /// Returns `None` and prints a line if the user is not root and so cannot create namespaces.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let [server, router, client] = [(); 3].map(|()| Namespace::new());
        server.cable(("lan0", &["10.77.0.1/24"]), &router, ("wan0", &["10.77.0.2/24"]));
        router.cable(("lan0", &["10.77.2.1/24"]), &client, ("eth0", &["10.77.2.2/24"]));
        client.ip("route add default via 10.77.2.1");
        router.sysctl("ipv4/ip_forward", "1");
        router.nft("add table ip nat");
        router.nft("add chain ip nat out { type nat hook postrouting priority 100 ; }");
        router.nft("add rule ip nat out oifname wan0 masquerade");
        Some(Self { server, router, client })
    }
}

/// Whether the user can create namespaces; prints a line otherwise.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "in CI these tests run as root");
        println!("skipped: needs root: {}", std::thread::current().name().unwrap_or("this test"));
    }
    root
}
