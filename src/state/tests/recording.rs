//! Tests of what the state reports about the disk while it fails and afterwards.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::time::Duration;

use super::crash_model::SimDisk;
use crate::state::replay::ReplayState;
use spa_knock_core::auth::{Acceptance, ReplayDomain};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{Now, Steady, Timestamp};

const WINDOW: Duration = Duration::from_secs(30);

fn after(now: Now, seconds: u64) -> Now {
    let passed = Duration::from_secs(seconds);
    Now { wall: now.wall.plus(passed), steady: now.steady.plus(passed) }
}

#[test]
fn a_disk_on_which_knocks_cannot_be_recorded_is_reported_until_it_works_or_no_one_knocks() {
    let disk = SimDisk::default();
    let mut now = Now {
        wall: Timestamp::from_millis(1_800_000_000_000),
        steady: Steady::from_duration(Duration::from_secs(1)),
    };
    let (mut state, memory) = ReplayState::open(disk.clone(), "boot".to_owned(), now, WINDOW).unwrap();
    let acceptance = |now: Now| Acceptance {
        key: Fingerprint::from_bytes([1; 8]),
        domain: ReplayDomain::Datagrams,
        timestamp: now.wall,
        id: [1; 12],
        floor: Timestamp::default(),
        counter: None,
    };
    assert!(state.can_record());

    // A knock cannot be recorded; a later one can.
    disk.fail_every(Some(1));
    assert!(state.record(&acceptance(now)).is_err());
    assert!(!state.can_record());
    disk.fail_every(None);
    assert!(state.record(&acceptance(now)).is_ok());
    assert!(state.can_record());

    // A host that gets no more knocks is not excluded forever.
    disk.fail_every(Some(1));
    assert!(state.record(&acceptance(now)).is_err());
    disk.fail_every(None);
    for (seconds, can_record) in [(10, false), (49, false), (1, true)] {
        now = after(now, seconds);
        state.run_due(&memory, now, WINDOW);
        state.settle();
        assert_eq!(state.can_record(), can_record, "after {seconds} s more");
    }

    // The lease is renewed without knocks.
    disk.fail_every(Some(1));
    now = after(now, 60);
    state.run_due(&memory, now, WINDOW);
    state.settle();
    assert!(!state.can_record(), "the lease cannot be renewed");
    disk.fail_every(None);
    now = after(now, 1);
    state.run_due(&memory, now, WINDOW);
    state.settle();
    assert!(state.can_record());
}
