//! The sandbox of a process with threads that connects to a few TCP ports: no files, programs, other sockets or new
//! processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use landlock::{ABI, AccessNet, NetPort, RulesetCreated, RulesetCreatedAttr, RulesetError};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::apply_filter_all_threads;

use super::{ArgumentRules, Must, STDERR, all_denied, bits, effective, filter, memory_and_clocks};

/// FIONBIO of ioctl(2): non-blocking sockets.
const FIONBIO: u64 = 0x5421;
/// The type of a socket without SOCK_CLOEXEC and SOCK_NONBLOCK.
const SOCK_TYPE_MASK: u64 = 0xf;

/// Landlock for a process that connects to these TCP ports: denies everything else. Must be called before threads are
/// started, which inherit it.
#[must_use]
pub fn only_connect_to(ports: &[u16]) -> ABI {
    let rules = ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    effective(all_denied().and_then(|denied| denied.add_rules(rules)).and_then(RulesetCreated::restrict_self))
}

/// Limits descriptors, and restricts the system calls of all threads, which must all be running: they connect over TCP,
/// send to whatever is connected, and read messages from `channel`. In debug builds, other calls kill the process.
///
/// # Errors
/// When the kernel refuses.
pub fn restrict_calls_of_threads(channel: &impl AsFd, most_descriptors: u64) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, most_descriptors, most_descriptors)?;
    let channel = u64::try_from(channel.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut conditional = conditional(channel);
    conditional.extend(memory_and_clocks());
    filter(&always(), conditional)
        .and_then(|program| apply_filter_all_threads(&program))
        .map_err(io::Error::other)
}

/// Calls permitted with any arguments. Where a connection can lead is Landlock's decision.
fn always() -> Vec<i64> {
    let mut calls = super::always();
    calls.extend([libc::SYS_connect, libc::SYS_close, libc::SYS_sched_yield]);
    calls
}

/// Calls permitted with one of these sets of conditions, all of which must hold.
fn conditional(channel: u64) -> Vec<(i64, Vec<ArgumentRules>)> {
    let option = |level, name| vec![Must::Be(1, bits(level)), Must::Be(2, bits(name))];
    vec![
        (
            libc::SYS_socket,
            [libc::AF_INET, libc::AF_INET6]
                .map(|family| {
                    let tcp = Must::Have(1, bits(libc::SOCK_STREAM), SOCK_TYPE_MASK);
                    vec![Must::Be(0, bits(family)), tcp, Must::Be(2, 0)]
                })
                .into(),
        ),
        (libc::SYS_sendto, vec![vec![Must::BeNull(4)]]),
        (libc::SYS_write, vec![vec![Must::Be(0, STDERR)]]),
        (libc::SYS_ioctl, vec![vec![Must::Be(1, FIONBIO), Must::NotBe(0, channel)]]),
        // The standard library's check in debug builds that it closes an open descriptor.
        (libc::SYS_fcntl, vec![vec![Must::Be(1, bits(libc::F_GETFD))]]),
        (libc::SYS_getsockopt, vec![option(libc::SOL_SOCKET, libc::SO_ERROR)]),
        (
            libc::SYS_setsockopt,
            vec![
                option(libc::IPPROTO_TCP, libc::TCP_NODELAY),
                option(libc::SOL_SOCKET, libc::SO_RCVTIMEO),
                option(libc::SOL_SOCKET, libc::SO_SNDTIMEO),
            ],
        ),
        (libc::SYS_clock_nanosleep, vec![vec![Must::Be(0, bits(libc::CLOCK_MONOTONIC))]]),
    ]
}
