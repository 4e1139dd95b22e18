//! What a watcher must be able to do behind its walls, or they would be tight because nothing works.

use std::os::fd::AsFd;
use std::time::Duration;

use spa_knock::capture::{Capture, CaptureEvent};
use spa_knock::os::net::seqpacket::{Channel, ReceiveResult};
use spa_knock::os::{clock, poll};

use crate::println;

/// How long a datagram may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Does all of it, with a line each.
pub(crate) fn all(channel: &Channel, capture: &mut dyn Capture) {
    tell("an order arrives", hears(channel));
    tell("a report leaves", channel.send(b"report").is_ok());
    println("watching");
    tell("a datagram is seen", sees(capture));
    // Of a socket nothing is known.
    tell("what was captured is counted", capture.intake().is_none_or(|intake| intake.received > 0));
    tell("the clocks run", clocks_run());
    tell("memory grows and shrinks", memory_grows());
    tell("random numbers come", random_numbers_come());
}

pub(crate) fn tell(what: &str, works: bool) {
    println(&format!("{} {what}", if works { "works" } else { "BROKEN" }));
}

fn hears(channel: &Channel) -> bool {
    let mut buffer = [0; 512];
    poll::readable(&[channel.as_fd()], PATIENCE).is_ok_and(|ready| ready == [true])
        && matches!(channel.try_recv(&mut buffer), Ok(ReceiveResult::Message(length)) if &buffer[..length] == b"order")
}

fn sees(capture: &mut dyn Capture) -> bool {
    let deadline = clock::steady().plus(PATIENCE);
    while clock::steady() < deadline {
        if poll::readable(&[capture.as_fd()], PATIENCE).is_err() {
            return false;
        }
        match capture.next() {
            Ok(CaptureEvent::Datagram(segment)) => return segment.payload.len() == 228,
            Ok(CaptureEvent::Other | CaptureEvent::PortHit(_) | CaptureEvent::Empty) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Past the vDSO, too, which not every machine has.
fn clocks_run() -> bool {
    let before = clock::now();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let asked = [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC]
        .map(|clock| call!(SYS_clock_gettime, clock, &raw mut time).is_ok());
    asked == [true; 2] && clock::now().steady > before.steady
}

fn memory_grows() -> bool {
    let mut bytes = vec![1_u8; 16 << 20];
    bytes.resize(32 << 20, 2);
    bytes.shrink_to(0);
    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    sum == (16 << 20) * 3
}

fn random_numbers_come() -> bool {
    let mut bytes = [0_u8; 16];
    call!(SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) == Ok(16)
}
