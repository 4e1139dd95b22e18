//! Misuse of the UDP socket, which must only receive. In the real watcher it is the keeper's socket on the knock port.

use std::ptr::null;

use super::Trial;
use super::capture::set;
use super::channel::{option, send_message};
use super::sockets::loopback;

pub(super) const TRIALS: &[Trial] = &[
    ("send a datagram", |t| {
        let to = loopback(9);
        call!(SYS_sendto, t.source, c"x".as_ptr(), 1, 0, &raw const to, size_of_val(&to))
    }),
    ("send a datagram without an address", |t| call!(SYS_sendto, t.source, c"x".as_ptr(), 1, 0, 0, 0)),
    ("send a datagram with sendmsg", |t| send_message(t.source, &[])),
    ("send datagrams with sendmmsg", |t| call!(SYS_sendmmsg, t.source, null::<u8>(), 0, 0)),
    ("write a datagram", |t| call!(SYS_write, t.source, c"x".as_ptr(), 1)),
    ("write a datagram on standard output", |_| call!(SYS_write, libc::STDOUT_FILENO, c"x".as_ptr(), 1)),
    ("writev a datagram", |t| call!(SYS_writev, t.source, null::<u8>(), 0)),
    ("sendfile to the socket", |t| call!(SYS_sendfile, t.source, libc::STDERR_FILENO, null::<u8>(), 1)),
    ("bind the socket elsewhere", |t| {
        let other = loopback(0);
        call!(SYS_bind, t.source, &raw const other, size_of_val(&other))
    }),
    ("connect the socket", |t| {
        let other = loopback(9);
        call!(SYS_connect, t.source, &raw const other, size_of_val(&other))
    }),
    ("shut the socket down", |t| call!(SYS_shutdown, t.source, 99)),
    ("bind the socket to an interface", |t| set(t.source, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &[0])),
    ("send as another host", |t| set(t.source, libc::IPPROTO_IP, libc::IP_TRANSPARENT, &[1])),
    ("receive errors", |t| set(t.source, libc::IPPROTO_IP, libc::IP_RECVERR, &[1])),
    ("share the port", |t| set(t.source, libc::SOL_SOCKET, libc::SO_REUSEPORT, &[1])),
    ("choose who gets datagrams", |t| set(t.source, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF, &[-1])),
    ("ask for the socket's buffer", |t| option(t.source, libc::SO_RCVBUF)),
    ("read from the socket", |t| match call!(SYS_read, t.source, null::<u8>(), 0) {
        Err(libc::EAGAIN) => Ok(0),
        outcome => outcome,
    }),
];
