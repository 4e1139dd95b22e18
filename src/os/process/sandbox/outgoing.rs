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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a program that runs in the sandbox tries what must fail")]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::os::net::seqpacket::Channel;
    use crate::os::process::privileges;

    const TRIAL: &str = "SPA_KNOCK_TEST_TRIAL";
    const PORT: &str = "SPA_KNOCK_TEST_PORT";
    const TEST: &str = "os::process::sandbox::outgoing::tests::\
                        a_process_in_the_sandbox_can_connect_to_its_port_and_do_nothing_else";
    /// Exit codes of a trial.
    const DONE: i32 = 40;
    const REFUSED: i32 = 41;

    type Trial = fn(u16) -> io::Result<()>;

    fn connect(port: u16) -> io::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop)
    }

    /// What is tried, and whether it must succeed.
    const TRIALS: [(&str, bool, Trial); 11] = [
        ("connect", true, connect),
        ("wait", true, |_| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        }),
        ("connect to another port", false, |port| connect(port.wrapping_add(1))),
        ("read a file", false, |_| std::fs::read("/etc/passwd").map(drop)),
        ("create a file", false, |_| std::fs::write("/tmp/spa-knock-trial", b"")),
        ("listen", false, |_| TcpListener::bind("127.0.0.1:0").map(drop)),
        ("UDP", false, |_| UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("a Unix socket", false, |_| UnixStream::connect("/run/systemd/private").map(drop)),
        ("a socket pair", false, |_| UnixStream::pair().map(drop)),
        ("a thread", false, |_| std::thread::Builder::new().spawn(|| ()).map(drop)),
        ("a program", false, |_| Command::new("/bin/true").spawn().map(drop)),
    ];

    /// Runs one trial in the sandbox, in a process of its own, of which this test is the only one.
    fn try_inside(trial: &str) -> ! {
        let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
        let (channel, _theirs) = Channel::pair().unwrap();
        privileges::drop_rights(None).unwrap();
        let _ = only_connect_to(&[port]);
        restrict_calls_of_threads(&channel, 64).unwrap();
        let (_, _, run) = TRIALS.iter().find(|(name, _, _)| *name == trial).unwrap();
        std::process::exit(if run(port).is_ok() { DONE } else { REFUSED });
    }

    #[test]
    fn a_process_in_the_sandbox_can_connect_to_its_port_and_do_nothing_else() {
        if let Ok(trial) = std::env::var(TRIAL) {
            try_inside(&trial);
        }
        let has_landlock =
            std::thread::scope(|scope| scope.spawn(|| only_connect_to(&[])).join().unwrap() >= ABI::V4);
        let [listener, other] = adjacent_listeners();
        let port = listener.local_addr().unwrap().port();
        for (name, succeeds, _) in TRIALS {
            if name == "connect to another port" && !has_landlock {
                println!("skipped: this kernel's Landlock does not restrict TCP");
                continue;
            }
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([TEST, "--exact", "--nocapture"]).env(TRIAL, name).env(PORT, port.to_string());
            let status = command.output().unwrap().status;
            let denied = status.code() == Some(REFUSED) || status.signal() == Some(libc::SIGSYS);
            let done = status.code() == Some(DONE);
            assert_eq!((done, denied), (succeeds, !succeeds), "{name}: {status}");
        }
        drop(other);
    }

    /// Two listeners whose ports follow each other: nothing but the sandbox can deny a connection to the second one.
    fn adjacent_listeners() -> [TcpListener; 2] {
        for _ in 0..100 {
            let first = TcpListener::bind("127.0.0.1:0").unwrap();
            let next = first.local_addr().unwrap().port().wrapping_add(1);
            if let Ok(second) = TcpListener::bind(("127.0.0.1", next)) {
                return [first, second];
            }
        }
        panic!("no two free ports");
    }
}
