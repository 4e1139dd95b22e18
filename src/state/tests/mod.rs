//! Tests of the complete state directory.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

mod crash_model;
mod folder;
mod leases;
mod recording;
mod sources;
mod starts;
mod syncs;
mod uses_and_codes;

use std::time::Duration;

use crash_model::SimDisk;

use super::replay::ReplayState;
use spa_knock_core::auth::ReplayMemory;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{Now, Steady, Timestamp};

const WINDOW: Duration = Duration::from_secs(30);
const KEY: Fingerprint = Fingerprint::from_bytes([7; 8]);
/// When the daemons of these tests start.
const NOW: Now = Now {
    wall: Timestamp::from_millis(1_795_331_877_123),
    steady: Steady::from_duration(Duration::from_secs(1_000)),
};

/// The state on this disk in boot `boot`.
fn open(disk: &SimDisk, boot: &str) -> (ReplayState<SimDisk>, ReplayMemory) {
    ReplayState::open(disk.clone(), boot.to_owned(), NOW, WINDOW).unwrap()
}

/// So many milliseconds after the start.
fn after(ms: u64) -> Now {
    let passed = Duration::from_millis(ms);
    Now { wall: NOW.wall.plus(passed), steady: NOW.steady.plus(passed) }
}
