//! Tests that the addresses of last grants survive what the replay memory survives.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::time::Duration;

use super::crash_model::SimDisk;
use super::{KEY, NOW, WINDOW, open};
use spa_knock_core::auth::LastSource;

fn source(n: u8) -> LastSource {
    LastSource { timestamp: NOW.wall.plus(Duration::from_millis(n.into())), address: [203, 0, 113, n].into() }
}

#[test]
fn the_address_of_a_last_grant_survives_every_end_of_the_daemon() {
    let disk = SimDisk::default();
    let (mut state, memory) = open(&disk, "boot-0");
    assert_eq!(memory.sources().of(KEY), None);
    state.record_source(KEY, source(1));
    drop(state);
    let (mut state, memory) = open(&disk, "boot-0");
    assert_eq!(memory.sources().of(KEY), Some(source(1)), "after a crash");
    state.record_source(KEY, source(2));
    state.close().unwrap();
    let (mut state, memory) = open(&disk, "boot-1");
    assert_eq!(memory.sources().of(KEY), Some(source(2)), "after a clean stop");
    state.record_source(KEY, source(3));
    drop(state);
    let (_, memory) = open(&disk, "boot-2");
    assert_eq!(memory.sources().of(KEY), Some(source(3)), "after a power loss: the disk has everything");
    assert!(memory.floor() > NOW.wall, "but no knock is accepted because of that");
}

#[test]
fn addresses_that_are_recorded_while_the_journal_is_rewritten_are_not_lost() {
    let disk = SimDisk::default();
    let (mut state, mut memory) = open(&disk, "boot-0");
    for n in 0..=u8::MAX {
        memory.sources_mut().store(KEY, source(n));
        // A rewrite that starts now has this one, and gets the next ones when it has finished.
        state.record_source(KEY, source(n));
        state.run_due(&memory, NOW, WINDOW);
        // Without an end of the rewrite, the journal would have no room at some time.
        if n % 64 == 0 {
            state.settle();
        }
    }
    state.settle();
    drop(state);
    let (_, memory) = open(&disk, "boot-0");
    assert_eq!(memory.sources().of(KEY), Some(source(u8::MAX)));
}
