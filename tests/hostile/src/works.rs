//! The operations that must still work inside the sandbox. Otherwise the sandbox could pass by denying everything.

use std::os::fd::AsFd;
use std::time::Duration;

use spa_knock::capture::{Capture, CaptureEvent};
use spa_knock::os::net::seqpacket::{Channel, ReceiveResult};
use spa_knock::os::{clock, poll};

use crate::println;

/// Time limit for the arrival of a datagram.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does all of these, and prints one line for each.
pub(crate) fn all(channel: &Channel, capture: &mut dyn Capture) {
    report("an order is received", receives_order(channel));
    report("a report is sent", channel.send(b"report").is_ok());
    println("watching");
    report("a datagram is captured", captures_datagram(capture));
    // A UDP socket has no counters.
    report("captured packets are counted", capture.intake().is_none_or(|intake| intake.received > 0));
    report("the clocks run", clocks_run());
    report("memory grows and shrinks", memory_grows());
    report("random numbers are available", random_numbers_are_available());
}

pub(crate) fn report(what: &str, works: bool) {
    println(&format!("{} {what}", if works { "works" } else { "BROKEN" }));
}

fn receives_order(channel: &Channel) -> bool {
    let mut buffer = [0; 512];
    poll::readable(&[channel.as_fd()], PATIENCE).is_ok_and(|ready| ready == [true])
        && matches!(channel.try_recv(&mut buffer), Ok(ReceiveResult::Message(length)) if &buffer[..length] == b"order")
}

fn captures_datagram(capture: &mut dyn Capture) -> bool {
    let deadline = clock::steady().plus(PATIENCE);
    while clock::steady() < deadline {
        if poll::readable(&[capture.as_fd()], PATIENCE).is_err() {
            return false;
        }
        let mut length = None;
        let handle = &mut |event: CaptureEvent<'_>| {
            if let CaptureEvent::Datagram(segment) = event {
                length = Some(segment.payload.len());
            }
        };
        if capture.read(1, handle).is_err() {
            return false;
        }
        if let Some(length) = length {
            return length == 228;
        }
    }
    false
}

/// Reads the clocks also with system calls, because some machines have no vDSO.
fn clocks_run() -> bool {
    let before = clock::now();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let read = [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC]
        .map(|clock| call!(SYS_clock_gettime, clock, &raw mut time).is_ok());
    read == [true; 2] && clock::now().steady > before.steady
}

fn memory_grows() -> bool {
    let mut bytes = vec![1_u8; 16 << 20];
    bytes.resize(32 << 20, 2);
    bytes.shrink_to(0);
    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    sum == (16 << 20) * 3
}

fn random_numbers_are_available() -> bool {
    let mut bytes = [0_u8; 16];
    call!(SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) == Ok(16)
}
