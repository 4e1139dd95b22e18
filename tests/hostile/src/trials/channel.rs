//! Misuse of the channel to the keeper.

use std::mem::zeroed;
use std::ptr::null;

use super::Trial;
use super::sockets::loopback;
use crate::call::Outcome;

/// SO_PEERPIDFD of socket(7), which not all versions of libc define.
const SO_PEERPIDFD: i32 = 77;

pub(super) const TRIALS: &[Trial] = &[
    ("send to an address on the channel", |t| {
        let to = loopback(9);
        call!(SYS_sendto, t.channel, c"x".as_ptr(), 1, libc::MSG_DONTWAIT, &raw const to, size_of_val(&to))
    }),
    ("send to an address in high memory on the channel", |t| {
        call!(SYS_sendto, t.channel, c"x".as_ptr(), 1, libc::MSG_DONTWAIT, 1_i64 << 32, 16)
    }),
    ("send on standard input, the channel's other descriptor", |_| {
        call!(SYS_sendto, libc::STDIN_FILENO, c"x".as_ptr(), 1, libc::MSG_DONTWAIT, 0, 0)
    }),
    ("sendmsg on the channel", |t| send_message(t.channel, &[])),
    ("send a descriptor on the channel", |t| send_message(t.channel, &rights(libc::STDERR_FILENO))),
    ("sendmmsg on the channel", |t| call!(SYS_sendmmsg, t.channel, null::<u8>(), 0, 0)),
    ("recvmsg on the channel, which could receive a descriptor", |t| receive_message(t.channel)),
    ("recvmsg on standard input, the channel's other descriptor", |_| receive_message(libc::STDIN_FILENO)),
    ("recvmsg on standard error", |_| receive_message(libc::STDERR_FILENO)),
    ("recvmmsg on the channel", |t| {
        call!(SYS_recvmmsg, t.channel, null::<u8>(), 0, libc::MSG_DONTWAIT, null::<u8>())
    }),
    ("write on the channel", |t| call!(SYS_write, t.channel, c"x".as_ptr(), 1)),
    ("writev on the channel", |t| call!(SYS_writev, t.channel, null::<u8>(), 0)),
    ("read from the channel", |t| call!(SYS_read, t.channel, null::<u8>(), 0)),
    ("connect the channel elsewhere", |t| {
        let to = loopback(9);
        call!(SYS_connect, t.channel, &raw const to, size_of_val(&to))
    }),
    ("bind the channel", |t| {
        let family = libc::AF_UNIX as u16;
        call!(SYS_bind, t.channel, &raw const family, size_of_val(&family))
    }),
    ("listen on the channel", |t| call!(SYS_listen, t.channel, 1)),
    ("accept on the channel", |t| call!(SYS_accept4, t.channel, null::<u8>(), null::<u8>(), 0)),
    ("shut the channel down", |t| call!(SYS_shutdown, t.channel, 99)),
    ("a handle on the keeper from the channel", |t| option(t.channel, SO_PEERPIDFD)),
    ("the keeper's process id from the channel", |t| option(t.channel, libc::SO_PEERCRED)),
    ("the name of the channel's other end", |t| {
        let (mut name, mut length) = ([0_u8; 128], 128_u32);
        call!(SYS_getpeername, t.channel, name.as_mut_ptr(), &raw mut length)
    }),
    ("receive senders' process ids on the channel", |t| {
        let on = 1_i32;
        call!(SYS_setsockopt, t.channel, libc::SOL_SOCKET, libc::SO_PASSCRED, &raw const on, 4)
    }),
    ("enlarge the channel's buffer", |t| {
        let bytes = 1_i32 << 20;
        call!(SYS_setsockopt, t.channel, libc::SOL_SOCKET, libc::SO_SNDBUF, &raw const bytes, 4)
    }),
];

/// Calls sendmsg with one byte and this control message.
pub(super) fn send_message(fd: i32, control: &[u64]) -> Outcome {
    let mut byte = libc::iovec { iov_base: c"x".as_ptr() as *mut _, iov_len: 1 };
    // SAFETY: all zero is a valid value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut byte;
    message.msg_iovlen = 1;
    message.msg_control = control.as_ptr() as *mut _;
    message.msg_controllen = size_of_val(control);
    call!(SYS_sendmsg, fd, &raw const message, libc::MSG_DONTWAIT)
}

fn receive_message(fd: i32) -> Outcome {
    let (mut bytes, mut control) = ([0_u8; 512], [0_u64; 8]);
    let mut buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a valid value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut buffer;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    match call!(SYS_recvmsg, fd, &raw mut message, libc::MSG_DONTWAIT) {
        // An empty channel is not a denial.
        Err(libc::EAGAIN) => Ok(0),
        outcome => outcome,
    }
}

/// An SCM_RIGHTS message of unix(7): length, level and type, then a descriptor.
fn rights(fd: i32) -> [u64; 3] {
    let head = size_of::<libc::cmsghdr>() + size_of::<i32>();
    let kind = u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32;
    [head as u64, kind | u64::from(libc::SOL_SOCKET.cast_unsigned()), u64::from(fd.cast_unsigned())]
}

/// Calls getsockopt at level SOL_SOCKET.
pub(super) fn option(fd: i32, option: i32) -> Outcome {
    let (mut value, mut length) = ([0_u8; 128], 128_u32);
    call!(SYS_getsockopt, fd, libc::SOL_SOCKET, option, value.as_mut_ptr(), &raw mut length)
}
