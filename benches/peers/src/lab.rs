//! Two network namespaces on a cable: the server at `lan0`, the clients at `eth0`. All tools run in the same two, one
//! after the other.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getpeername, getsockopt, socket, sockopt,
};

use crate::namespace::Namespace;

/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The port that a knock opens.
pub(crate) const PORT: u16 = 22;
/// Addresses from which clients knock; the client's own is 10.77.0.2, which is also the router to spoofed addresses.
const ADDRESSES: u16 = 4_000;
/// Hardware addresses, so that no measurement includes their resolution.
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The two namespaces.
pub(crate) struct Lab {
    pub(crate) server: Namespace,
    pub(crate) client: Namespace,
    next: AtomicU16,
}

impl Lab {
    /// Creates the namespaces, and a listener on the port.
    pub(crate) fn new() -> Self {
        let [server, client] = [(); 2].map(|()| Namespace::new());
        server.cable(("lan0", &["10.77.0.1/24"]), &client, ("eth0", &["10.77.0.2/24"]));
        for (namespace, device, mac) in [(&server, "lan0", SERVER_MAC), (&client, "eth0", CLIENT_MAC)] {
            let [a, b, c, d, e, f] = mac;
            namespace
                .ip(&format!("link set {device} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"));
        }
        client.ip("neigh replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
        server.ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev lan0 nud permanent");
        // Replies to spoofed addresses leave the server, as on a real one.
        server.ip("route add default via 10.77.0.2");
        for which in ["all", "lan0"] {
            server.sysctl(&format!("ipv4/conf/{which}/rp_filter"), "0");
        }
        // Every knock has its own address, so that no earlier grant applies to it.
        let lines: String =
            (0..ADDRESSES).map(|n| format!("addr add {}/32 dev eth0\n", Self::address(n))).collect();
        let mut batch = tempfile::NamedTempFile::new().unwrap();
        batch.write_all(lines.as_bytes()).unwrap();
        client.ip(&format!("-batch {}", batch.path().display()));
        // A dead end that looks like the way to the server: what is sent into it can be recorded and never arrives.
        client.ip("link add void type veth peer name end");
        client.ip("link set void up");
        client.ip("link set end up");
        client.ip("neigh replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev void nud permanent");
        let listener = server.enter(|| TcpListener::bind((SERVER, PORT)).unwrap());
        thread::spawn(move || listener.incoming().for_each(drop));
        Self { server, client, next: AtomicU16::new(0) }
    }

    /// An address of the client from which no one has knocked.
    pub(crate) fn fresh_address(&self) -> Ipv4Addr {
        Self::address(self.next.fetch_add(1, Ordering::SeqCst) % ADDRESSES)
    }

    fn address(n: u16) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 1, 0)) + u32::from(n))
    }

    /// Makes programs in the client's namespace send from this address.
    pub(crate) fn send_from(&self, source: Ipv4Addr) {
        self.client.ip(&format!("route replace 10.77.0.0/24 dev eth0 src {source}"));
    }

    /// Runs `work` while everything for the server is sent into the dead end instead, from `source`.
    pub(crate) fn with_a_dead_end<T: Send>(&self, source: Ipv4Addr, work: impl FnOnce() -> T + Send) -> T {
        self.client.ip(&format!("route replace {SERVER}/32 dev void src {source}"));
        let result = work();
        self.client.ip(&format!("route del {SERVER}/32 dev void"));
        result
    }

    /// Removes all firewall rules of the server.
    pub(crate) fn clear_firewall(&self) {
        self.server.nft("flush ruleset");
    }

    /// Whether the port accepts a connection from this address within `patience`.
    pub(crate) fn is_open(&self, from: Ipv4Addr, patience: Duration) -> bool {
        self.client.enter(|| connects(from, patience))
    }
}

/// Whether one SYN from an address of this namespace is accepted within `patience`. Gives the processor to other
/// threads while it waits.
pub(crate) fn connects(from: Ipv4Addr, patience: Duration) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    if bind(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).is_err() {
        return false;
    }
    match connect(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(SERVER, PORT))) {
        Ok(()) => return true,
        Err(Errno::EINPROGRESS) => {}
        Err(_) => return false,
    }
    let start = Instant::now();
    while start.elapsed() < patience {
        if getpeername::<SockaddrIn>(stream.as_raw_fd()).is_ok() {
            return true;
        }
        if getsockopt(&stream, sockopt::SocketError).is_ok_and(|error| error != 0) {
            return false;
        }
        thread::yield_now();
    }
    false
}
