//! Floods: many datagrams per second, up to a fixed number, and only on the cables of the lab.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use spa_knock_core::crypto::random;

use super::Key;

/// Pause between two bursts.
const TICK: Duration = Duration::from_millis(1);
/// Maximum number of datagrams in one system call; the kernel accepts 1,024.
const BURST: usize = 256;

/// Sends these datagrams from a connected socket, in a cycle, `rate` per second, until `total` are sent. Returns how
/// long that took.
pub(crate) fn flood(socket: &UdpSocket, datagrams: &[Vec<u8>], rate: usize, total: usize) -> Duration {
    let start = Instant::now();
    let mut next = datagrams.iter().cycle();
    let mut sent = 0;
    while sent < total {
        thread::sleep(TICK);
        let due = usize::try_from(start.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while sent < due.min(total) {
            let count = (due.min(total) - sent).min(BURST);
            let burst: Vec<_> = next.by_ref().take(count).map(|datagram| [IoSlice::new(datagram)]).collect();
            send(socket, &burst);
            sent += count;
        }
    }
    start.elapsed()
}

fn send(socket: &UdpSocket, mut burst: &[[IoSlice<'_>; 1]]) {
    while !burst.is_empty() {
        let addresses: Vec<Option<SockaddrStorage>> = vec![None; burst.len()];
        let mut headers = MultiHeaders::preallocate(burst.len(), None);
        let fd = socket.as_raw_fd();
        let sent = match sendmmsg(fd, &mut headers, burst, addresses, [], MsgFlags::empty()) {
            Ok(sent) => sent.count(),
            // The socket has no room for any of them.
            Err(Errno::ENOBUFS | Errno::EAGAIN) => 0,
            Err(error) => panic!("sendmmsg: {error}"),
        };
        burst = &burst[sent..];
    }
}

/// Forged knocks of all lengths: from unknown clients, with this client's hint but without its signature, and some that
/// are too short or too long.
pub(crate) fn forged(key: &Key, count: usize) -> Vec<Vec<u8>> {
    let hint = key.good()[..8].to_vec();
    let forge = |n: usize| {
        let mut bytes = random::<300>().unwrap().to_vec();
        if n.is_multiple_of(2) {
            bytes[..8].copy_from_slice(&hint);
        }
        bytes.truncate(220 + n % 80);
        bytes
    };
    (0..count).map(forge).collect()
}
