//! New sockets.

use std::mem::offset_of;

use super::Trial;
use crate::call::Outcome;

/// Trials that Landlock denies too.
pub(super) const BEHIND_LANDLOCK: &[Trial] = &[
    ("bind a TCP port", |_| {
        let address = loopback(0);
        with_socket(libc::AF_INET, |fd| call!(SYS_bind, fd, &raw const address, size_of_val(&address)))
    }),
    ("connect over TCP", |_| {
        let address = loopback(9);
        with_socket(libc::AF_INET, |fd| call!(SYS_connect, fd, &raw const address, size_of_val(&address)))
    }),
    ("bind a Unix socket to a path", |t| {
        let address = unix(t.file("socket").as_bytes());
        with_socket(libc::AF_UNIX, |fd| call!(SYS_bind, fd, &raw const address, size_of_val(&address)))
    }),
    ("connect to an abstract Unix socket", |t| {
        let name = [b"\0".as_slice(), t.bystander.socket.as_bytes()].concat();
        let address = unix(&name);
        let length = offset_of!(libc::sockaddr_un, sun_path) + name.len();
        with_socket(libc::AF_UNIX, |fd| call!(SYS_connect, fd, &raw const address, length))
    }),
    ("signal a process of the same user", |t| call!(SYS_kill, t.bystander.process, 0)),
];

pub(super) const TRIALS: &[Trial] = &[
    ("an IPv4 stream socket", |_| call!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("an IPv4 datagram socket", |_| call!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)),
    ("an IPv4 raw socket", |_| call!(SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("an IPv6 stream socket", |_| call!(SYS_socket, libc::AF_INET6, libc::SOCK_STREAM, 0)),
    ("an IPv6 datagram socket", |_| call!(SYS_socket, libc::AF_INET6, libc::SOCK_DGRAM, 0)),
    ("a Unix stream socket", |_| call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ("a Unix datagram socket", |_| call!(SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM, 0)),
    ("a netlink socket", |_| call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)),
    ("a netfilter socket", |_| call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)),
    ("a packet socket", |_| call!(SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, libc::ETH_P_ALL.to_be())),
    ("a vsock socket", |_| call!(SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("an AF_ALG socket", |_| call!(SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("a Bluetooth socket", |_| call!(SYS_socket, libc::AF_BLUETOOTH, libc::SOCK_RAW, 0)),
    ("a CAN socket", |_| call!(SYS_socket, libc::AF_CAN, libc::SOCK_RAW, 1)),
    ("an XDP socket", |_| call!(SYS_socket, libc::AF_XDP, libc::SOCK_RAW, 0)),
    ("socketpair", |_| {
        let mut pair = [0; 2];
        call!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr())
    }),
];

fn with_socket(family: i32, then: impl FnOnce(i64) -> Outcome) -> Outcome {
    then(call!(SYS_socket, family, libc::SOCK_STREAM, 0)?)
}

/// The address 127.0.0.1 with this port.
pub(super) fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: libc::INADDR_LOOPBACK.to_be() },
        sin_zero: [0; 8],
    }
}

fn unix(path: &[u8]) -> libc::sockaddr_un {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    for (to, &from) in address.sun_path.iter_mut().zip(path) {
        *to = from as libc::c_char;
    }
    address
}
