//! Somebody who tries to connect all the time.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, accept4, bind, connect, getpeername, listen,
    socket,
};

use super::Namespace;

/// How long a SYN may wait for its answer: less than until it is sent again.
const PATIENCE: Duration = Duration::from_millis(700);

/// SYNs at a steady rate, each by a socket of its own.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Probes>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Connected.
    pub(crate) accepted: usize,
    /// Neither connected nor refused in time: when those were sent, since the start.
    pub(crate) unanswered: Vec<Duration>,
}

impl Prober {
    /// Tries this port, so many times a second.
    pub(crate) fn start(namespace: &Namespace, server: IpAddr, port: u16, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread =
            namespace.enter(|| thread::spawn(move || probe(SocketAddr::new(server, port), rate, &until)));
        Self { stop, thread }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Probes {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn probe(server: SocketAddr, rate: u32, stop: &AtomicBool) -> Probes {
    let mut probes = Probes::default();
    let mut waiting: Vec<(Instant, OwnedFd)> = Vec::new();
    let start = Instant::now();
    let mut next = start;
    while !stop.load(Ordering::SeqCst) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_secs(1) / rate;
        waiting.push((Instant::now(), syn(server)));
        waiting.retain(|(sent, socket)| !is_over(&mut probes, start, *sent, socket));
    }
    while !waiting.is_empty() {
        thread::sleep(Duration::from_millis(1));
        waiting.retain(|(sent, socket)| !is_over(&mut probes, start, *sent, socket));
    }
    probes
}

fn syn(server: SocketAddr) -> OwnedFd {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None).unwrap();
    // It is under way, or failed at once, which shows by never being connected.
    let _ = connect(socket.as_raw_fd(), &SockaddrStorage::from(server));
    socket
}

fn is_over(probes: &mut Probes, start: Instant, sent: Instant, socket: &OwnedFd) -> bool {
    if getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok() {
        probes.accepted += 1;
        return true;
    }
    let over = sent.elapsed() > PATIENCE;
    if over {
        probes.unanswered.push(sent - start);
    }
    over
}

impl Namespace {
    /// Accepts and closes whatever connects, as fast as it comes, as long as the test runs.
    pub(crate) fn accept_all(&self, port: u16) {
        let listener = self.enter(|| {
            let listener =
                socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            let any = SocketAddr::from(([0_u16; 8], port));
            bind(listener.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
            listen(&listener, Backlog::new(4096).unwrap()).unwrap();
            listener
        });
        thread::spawn(move || {
            while let Ok(stream) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                let _ = nix::unistd::close(stream);
            }
        });
    }
}
