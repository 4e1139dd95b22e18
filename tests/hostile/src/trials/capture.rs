//! Misuse of a capture socket: to send frames, capture elsewhere or change its filter.

use std::ptr::{null, null_mut};

use super::Trial;
use super::channel::{option, send_message};
use crate::call::Outcome;

/// A broadcast Ethernet frame of an experimental type (IEEE 802, 0x88B5), padded to the minimum length.
const FRAME: [u8; 60] = {
    let mut frame = [0; 60];
    let mut at = 0;
    while at < 6 {
        frame[at] = 0xff;
        at += 1;
    }
    frame[12] = 0x88;
    frame[13] = 0xb5;
    frame
};
/// From linux/if_packet.h.
const PACKET_ROLLOVER_STATS: i32 = 21;
/// SIOCGSKNS from linux/sockios.h: opens a descriptor of the network namespace.
const SIOCGSKNS: libc::c_ulong = 0x894c;

pub(super) const TRIALS: &[Trial] = &[
    ("send a frame", |t| call!(SYS_sendto, t.source, FRAME.as_ptr(), FRAME.len(), 0, 0, 0)),
    ("send a frame to an interface", |t| {
        let to = interface(1);
        call!(SYS_sendto, t.source, FRAME.as_ptr(), FRAME.len(), 0, &raw const to, size_of_val(&to))
    }),
    ("send a frame with sendmsg", |t| send_message(t.source, &[])),
    ("send frames with sendmmsg", |t| call!(SYS_sendmmsg, t.source, null::<u8>(), 0, 0)),
    ("write a frame", |t| call!(SYS_write, t.source, FRAME.as_ptr(), FRAME.len())),
    ("writev a frame", |t| {
        let frame = libc::iovec { iov_base: FRAME.as_ptr() as *mut _, iov_len: FRAME.len() };
        call!(SYS_writev, t.source, &raw const frame, 1)
    }),
    ("pwrite a frame", |t| call!(SYS_pwrite64, t.source, FRAME.as_ptr(), FRAME.len(), 0)),
    ("pwritev a frame", |t| {
        let frame = libc::iovec { iov_base: FRAME.as_ptr() as *mut _, iov_len: FRAME.len() };
        call!(SYS_pwritev, t.source, &raw const frame, 1, 0, 0)
    }),
    ("sendfile to the capture", |t| call!(SYS_sendfile, t.source, libc::STDERR_FILENO, null_mut::<u8>(), 1)),
    ("splice to the capture", |t| {
        let nowhere = null_mut::<u8>();
        call!(SYS_splice, libc::STDERR_FILENO, nowhere, t.source, nowhere, 1, libc::SPLICE_F_NONBLOCK)
    }),
    ("read from the capture", |t| match call!(SYS_read, t.source, null::<u8>(), 0) {
        Err(libc::EAGAIN) => Ok(0),
        outcome => outcome,
    }),
    ("capture on another interface", |t| {
        let other = interface(1);
        call!(SYS_bind, t.source, &raw const other, size_of_val(&other))
    }),
    ("capture on all interfaces", |t| {
        let all = interface(0);
        call!(SYS_bind, t.source, &raw const all, size_of_val(&all))
    }),
    ("connect the capture", |t| {
        let other = interface(1);
        call!(SYS_connect, t.source, &raw const other, size_of_val(&other))
    }),
    ("capture frames for other hosts (promiscuous mode)", |t| {
        let request = [1_i32, libc::PACKET_MR_PROMISC, 0, 0];
        set(t.source, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }),
    ("another capture ring", |t| set(t.source, libc::SOL_PACKET, libc::PACKET_RX_RING, &[4096, 1, 4096, 1])),
    ("a transmit ring", |t| set(t.source, libc::SOL_PACKET, libc::PACKET_TX_RING, &[4096, 1, 4096, 1])),
    ("share the capture (fanout)", |t| set(t.source, libc::SOL_PACKET, libc::PACKET_FANOUT, &[7])),
    ("send without queueing", |t| set(t.source, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &[1])),
    ("map the capture again", |t| call!(SYS_mmap, 0, 4096, libc::PROT_READ, libc::MAP_SHARED, t.source, 0)),
    ("the capture's filter", |t| option(t.source, libc::SO_GET_FILTER)),
    ("the capture's other statistics", |t| {
        let (mut value, mut length) = ([0_u8; 32], 32_u32);
        let statistics = PACKET_ROLLOVER_STATS;
        call!(SYS_getsockopt, t.source, libc::SOL_PACKET, statistics, value.as_mut_ptr(), &raw mut length)
    }),
    ("take an interface down", |t| interface_request(t.source, libc::SIOCSIFFLAGS)),
    ("change an interface's address", |t| interface_request(t.source, libc::SIOCSIFADDR)),
    ("ask for an interface's address", |t| interface_request(t.source, libc::SIOCGIFADDR)),
    ("ask for an interface's hardware settings", |t| interface_request(t.source, libc::SIOCETHTOOL)),
    ("a handle on the network namespace", |t| call!(SYS_ioctl, t.source, SIOCGSKNS, 0)),
];

/// Trials that the lock on the filter denies too, even to root.
pub(super) const LOCKED: &[Trial] = &[
    ("detach the filter", |t| set(t.source, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &[0])),
    ("attach another filter", |t| {
        // BPF_RET with the largest length: all packets pass.
        let mut all = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::MAX };
        let program = libc::sock_fprog { len: 1, filter: &raw mut all };
        let option = libc::SO_ATTACH_FILTER;
        call!(SYS_setsockopt, t.source, libc::SOL_SOCKET, option, &raw const program, size_of_val(&program))
    }),
    ("attach a BPF program", |t| set(t.source, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &[-1])),
    ("unlock the filter", |t| set(t.source, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &[0])),
];

fn interface(index: i32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    }
}

/// Calls setsockopt with these integers as the value.
pub(super) fn set(fd: i32, level: i32, option: i32, value: &[i32]) -> Outcome {
    call!(SYS_setsockopt, fd, level, option, value.as_ptr(), size_of_val(value))
}

/// Makes an ioctl about an interface that does not exist, so that nothing changes where this is allowed.
pub(super) fn interface_request(fd: i32, request: libc::c_ulong) -> Outcome {
    let mut interface = [0_u8; 64];
    interface[..4].copy_from_slice(b"none");
    call!(SYS_ioctl, fd, request, interface.as_mut_ptr())
}
