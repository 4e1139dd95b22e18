//! Tests of when the lease is written and what it covers.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::time::Duration;

use super::crash_model::SimDisk;
use super::{KEY, NOW, WINDOW, after, open};
use crate::os::poll::Polled;
use crate::state::disk::Disk;
use crate::state::lease::{KeyBounds, Lease};
use crate::state::replay::ReplayState;
use spa_knock_core::auth::{ReplayDomain, ReplayMemory};
use spa_knock_core::knock::{Now, Timestamp};

const HOUR: Duration = Duration::from_secs(3_600);
const MILLISECOND: Duration = Duration::from_millis(1);
/// The window and a minute.
const USUAL: Duration = Duration::from_secs(90);

/// When the lease on disk ends, for all keys and for those that are ahead.
fn on_disk(disk: &SimDisk) -> (Timestamp, KeyBounds) {
    let lease = Lease::read(&disk.read("replay.lease").unwrap().unwrap()).unwrap();
    (lease.until, lease.ahead)
}

/// Lets a renewal start, and waits for it. Returns whether there was one.
fn renews(state: &mut ReplayState<SimDisk>, memory: &ReplayMemory, now: Now) -> bool {
    state.run_due(memory, now, WINDOW);
    state.settle();
    state.ended().lease.is_some_and(|written| written.is_ok())
}

#[test]
fn a_longer_lease_is_written_on_request_and_not_again_if_another_write_has_reached_it() {
    let disk = SimDisk::default();
    let (mut state, mut memory) = open(&disk, "boot");
    let far = NOW.wall.plus(HOUR);
    assert_eq!(state.deadline(), None, "nothing waits");
    assert!(!state.reaches(far));
    assert_eq!(state.deadline(), Some(NOW.steady), "a knock waits");
    assert!(renews(&mut state, &memory, NOW));
    // A minute more than was requested.
    let end = far.plus(Duration::from_secs(60));
    assert_eq!((state.deadline(), on_disk(&disk)), (None, (end, KeyBounds::new())));
    assert!(state.reaches(far) && state.reaches(end));

    let further = end.plus(MILLISECOND);
    assert!(!state.reaches(further));
    memory.raise_floors(further);
    state.persist(&memory, NOW, WINDOW).unwrap();
    assert_eq!((state.deadline(), on_disk(&disk).0), (None, further));
    assert!(!renews(&mut state, &memory, NOW));
}

#[test]
fn a_lease_is_renewed_when_it_becomes_short_and_lowered_when_the_clock_was_far_ahead() {
    let set_back = |ms| Now { wall: NOW.wall.minus(Duration::from_millis(ms)), ..NOW };
    for (now, is_renewed) in
        [(after(30_000), false), (after(30_001), true), (set_back(600_000), false), (set_back(600_001), true)]
    {
        let disk = SimDisk::default();
        let (mut state, _) = open(&disk, "boot");
        let memory = ReplayMemory::new(Timestamp::default());
        assert_eq!(renews(&mut state, &memory, now), is_renewed, "{now:?}");
        let end = if is_renewed { now.wall.plus(USUAL) } else { NOW.wall.plus(USUAL) };
        assert_eq!(on_disk(&disk).0, end, "{now:?}");
    }
}

#[test]
fn the_lease_of_a_start_has_bounds_for_keys_that_are_ahead_and_is_not_longer_for_the_others() {
    use ReplayDomain::{Datagrams, Ports};
    let usual = NOW.wall.plus(USUAL);
    let (far, further) = (NOW.wall.plus(HOUR), NOW.wall.plus(HOUR + HOUR));
    for (highest, bound) in [
        (&[(Datagrams, usual)][..], None),
        (&[(Datagrams, usual.plus(MILLISECOND))], Some(usual.plus(MILLISECOND))),
        (&[(Datagrams, far), (Ports, further)], Some(further)),
        (&[(Datagrams, further), (Ports, far)], Some(further)),
    ] {
        let disk = SimDisk::default();
        let (mut state, mut memory) = open(&disk, "boot");
        for (domain, high) in highest {
            memory.restore_floor(KEY, *domain, *high, *high);
        }
        state.persist(&memory, NOW, WINDOW).unwrap();
        drop(state);
        let (mut state, _) = open(&disk, "boot");
        let ahead: KeyBounds = bound.map(|bound| (KEY, bound)).into_iter().collect();
        assert_eq!(on_disk(&disk), (usual, ahead), "{highest:?}");
        assert!(!state.reaches(usual.plus(MILLISECOND)), "{highest:?}");
    }
}

#[cfg(feature = "fwknop")]
#[test]
fn a_bound_of_one_key_that_the_lease_of_all_has_reached_is_not_written() {
    let disk = SimDisk::default();
    let (mut state, memory) = open(&disk, "boot");
    let far = NOW.wall.plus(HOUR);
    assert!(!state.reaches_for(KEY, far) && !state.reaches(far));
    assert!(renews(&mut state, &memory, NOW));
    assert_eq!(on_disk(&disk), (far.plus(Duration::from_secs(60)), KeyBounds::new()));
}
