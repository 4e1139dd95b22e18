//! Sends frames on the cable: some, or a flood at a given rate, from one thread on one core.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt, socket,
};
use nix::unistd::Pid;

use crate::lab::Lab;

/// PACKET_QDISC_BYPASS of packet(7): frames go to the driver directly.
#[derive(Clone, Copy)]
struct QdiscBypass;
nix::setsockopt_impl!(
    QdiscBypass,
    libc::SOL_PACKET,
    libc::PACKET_QDISC_BYPASS,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// Longest duration of a flood.
const FLOOD_MAX: Duration = Duration::from_secs(10);
/// Frames of one system call.
const BURST: usize = 64;
/// The core of the sender; everything else may use all cores.
const CORE: usize = 1;

/// The duration of a flood, and the CPU time of its sender. The kernel processes a frame on the sender's core, up to the
/// socket or the rule where it ends, so that this includes the server's kernel.
pub(crate) struct Span {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// A rate that no machine reaches.
pub(crate) const UNLIMITED: u64 = 100_000_000;

/// The counters of a flood while it runs.
#[derive(Default)]
pub(crate) struct Flood {
    stop: AtomicBool,
    over: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    /// Frames that the cable has taken so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Whether nothing is sent any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Sends the frames in a cycle, `rate` per second, until it is stopped, `total` are sent or the time is over.
    /// Returns how long that took.
    pub(crate) fn run(&self, lab: &Lab, frames: &[Vec<u8>], rate: u64, total: u64) -> Span {
        lab.client.enter(|| {
            pin();
            let cable = cable();
            let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
            let mut headers = MultiHeaders::<LinkAddr>::preallocate(BURST, None);
            let (start, mut next) = (Instant::now(), 0);
            while !self.stop.load(Ordering::Relaxed) && start.elapsed() < FLOOD_MAX {
                let sent = self.sent.load(Ordering::Relaxed);
                if sent >= total {
                    break;
                }
                let due = (start.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
                let count =
                    (due.min(total).saturating_sub(sent) as usize).min(BURST).min(slices.len() - next);
                if count == 0 {
                    if rate < 100_000 {
                        thread::sleep(Duration::from_micros(100));
                    }
                    continue;
                }
                let burst = &slices[next..next + count];
                let done = match sendmmsg(
                    cable.as_raw_fd(),
                    &mut headers,
                    burst,
                    [const { None }; BURST],
                    [],
                    MsgFlags::empty(),
                ) {
                    Ok(sent) => sent.count(),
                    Err(Errno::ENOBUFS | Errno::EAGAIN) => 0,
                    Err(error) => panic!("sendmmsg: {error}"),
                };
                next = (next + done) % slices.len();
                self.sent.fetch_add(done as u64, Ordering::Relaxed);
            }
            self.over.store(true, Ordering::SeqCst);
            Span { wall: start.elapsed(), cpu: own_cpu_time() }
        })
    }
}

/// Sends each frame once.
pub(crate) fn send(lab: &Lab, frames: &[Vec<u8>]) {
    lab.client.enter(|| {
        let cable = cable();
        for frame in frames {
            nix::unistd::write(&cable, frame).unwrap();
        }
    });
}

/// The CPU time of this thread, which does nothing but send.
fn own_cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn pin() {
    let mut cores = CpuSet::new();
    if cores.set(CORE).is_ok() {
        // A machine with one core has no other choice.
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

/// A packet socket that only sends. It needs no address per frame, because it is bound to the interface.
fn cable() -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|interface| interface.interface_name == "eth0")
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    setsockopt(&socket, QdiscBypass, &true).unwrap();
    socket
}
