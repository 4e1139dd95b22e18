//! A host that tries to connect all the time.

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

/// Time limit for the response to a SYN; shorter than the time until the kernel resends the SYN.
const PATIENCE: Duration = Duration::from_millis(700);

/// Sends SYNs at a steady rate, each from its own socket.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Probes>,
}

/// The results of its connection attempts.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Number of connections established.
    pub(crate) accepted: usize,
    /// The attempts that were not accepted in time: when each was sent, measured from the start.
    pub(crate) unanswered: Vec<Duration>,
}

impl Prober {
    /// Starts to connect to this port, `rate` times per second.
    pub(crate) fn start(namespace: &Namespace, server: IpAddr, port: u16, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread =
            namespace.enter(|| thread::spawn(move || probe(SocketAddr::new(server, port), rate, &until)));
        Self { stop, thread }
    }

    /// Stops and returns the results.
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
        waiting.retain(|(sent, socket)| !is_finished(&mut probes, start, *sent, socket));
    }
    while !waiting.is_empty() {
        thread::sleep(Duration::from_millis(1));
        waiting.retain(|(sent, socket)| !is_finished(&mut probes, start, *sent, socket));
    }
    probes
}

fn syn(server: SocketAddr) -> OwnedFd {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None).unwrap();
    // The attempt is in progress, or it failed immediately; a failed one never becomes connected.
    let _ = connect(socket.as_raw_fd(), &SockaddrStorage::from(server));
    socket
}

fn is_finished(probes: &mut Probes, start: Instant, sent: Instant, socket: &OwnedFd) -> bool {
    if getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok() {
        probes.accepted += 1;
        return true;
    }
    let timed_out = sent.elapsed() > PATIENCE;
    if timed_out {
        probes.unanswered.push(sent - start);
    }
    timed_out
}

impl Namespace {
    /// Accepts and closes all connections to this port as long as the test runs.
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
