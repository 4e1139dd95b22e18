//! Many datagrams a second, for a while: bounded in number, and on the cables of the laboratory alone.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use spa_knock_core::crypto::random;

use super::Key;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);
/// Datagrams handed over together at the most; the kernel takes 1,024.
const HANDFUL: usize = 256;

/// Sends these datagrams from a connected socket, over and over, so many a second, until so many are sent; returns how
/// long that took.
pub(crate) fn flood(socket: &UdpSocket, datagrams: &[Vec<u8>], rate: usize, total: usize) -> Duration {
    let start = Instant::now();
    let mut next = datagrams.iter().cycle();
    let mut sent = 0;
    while sent < total {
        thread::sleep(TICK);
        let due = usize::try_from(start.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while sent < due.min(total) {
            let count = (due.min(total) - sent).min(HANDFUL);
            let handful: Vec<_> =
                next.by_ref().take(count).map(|datagram| [IoSlice::new(datagram)]).collect();
            send(socket, &handful);
            sent += count;
        }
    }
    start.elapsed()
}

fn send(socket: &UdpSocket, mut handful: &[[IoSlice<'_>; 1]]) {
    while !handful.is_empty() {
        let addresses: Vec<Option<SockaddrStorage>> = vec![None; handful.len()];
        let mut headers = MultiHeaders::preallocate(handful.len(), None);
        let fd = socket.as_raw_fd();
        let sent = match sendmmsg(fd, &mut headers, handful, addresses, [], MsgFlags::empty()) {
            Ok(sent) => sent.count(),
            // No room for any of them now.
            Err(Errno::ENOBUFS | Errno::EAGAIN) => 0,
            Err(error) => panic!("sendmmsg: {error}"),
        };
        handful = &handful[sent..];
    }
}

/// Forged knocks of all lengths: of nobody, of this client but not signed by it, and some that are too short or long.
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
