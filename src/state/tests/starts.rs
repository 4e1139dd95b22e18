//! Tests of starts and resets with files that are missing, damaged, incomplete or ahead of the clock.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::time::Duration;

use super::crash_model::SimDisk;
use super::{KEY, NOW, WINDOW};
use crate::os::clock;
use crate::state::journal::{self, JournalContent};
use crate::state::replay::{Floors, ReplayState};
use spa_knock_core::auth::{LastSource, ReplayDomain, ReplayMemory};
use spa_knock_core::knock::{Now, Timestamp};

const LEASE: &str = "replay.lease";
const JOURNAL: &str = "replay.journal";

fn is_new(memory: &ReplayMemory, timestamp: Timestamp, id: u8) -> bool {
    memory.check(KEY, ReplayDomain::Datagrams, timestamp, &[id; 12]).is_ok()
}

fn open(disk: &SimDisk) -> Result<(ReplayState<SimDisk>, ReplayMemory), String> {
    ReplayState::open(disk.clone(), "boot".to_owned(), NOW, WINDOW).map_err(|error| error.to_string())
}

/// The disk of a daemon that crashed after it had accepted these knocks.
fn crashed(knocks: &[(Timestamp, u8)]) -> SimDisk {
    let disk = SimDisk::default();
    let (mut state, mut memory) = open(&disk).unwrap();
    for (timestamp, id) in knocks {
        let accepted = memory.accept(KEY, ReplayDomain::Datagrams, *timestamp, [*id; 12], WINDOW).unwrap();
        state.record(&accepted).unwrap();
    }
    disk
}

/// Makes the journal one whose last write was incomplete.
fn cut_end_mark(disk: &SimDisk) {
    disk.damage(JOURNAL, |bytes| {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes.truncate(used / 48 * 48);
    });
}

fn later(ms: u64) -> Timestamp {
    NOW.wall.plus(Duration::from_millis(ms))
}

type Change = fn(&SimDisk);

#[test]
fn a_start_without_one_of_the_two_files_is_refused_and_a_reset_accepts_no_knock_twice() {
    let cases: [(Change, &str); 5] = [
        (|disk| disk.remove(LEASE), "replay state replay.lease: missing, although there is a journal\n"),
        (|disk| disk.remove(JOURNAL), "replay state replay.journal: missing, although there is a lease\n"),
        (|disk| disk.damage(LEASE, |bytes| bytes[30] ^= 1), "replay state replay.lease: damaged\n"),
        (|disk| disk.damage(JOURNAL, |bytes| bytes[60] ^= 1), "replay state replay.journal: damaged\n"),
        (|disk| disk.damage(JOURNAL, Vec::clear), "replay state replay.journal: damaged\n"),
    ];
    for (change, error) in cases {
        let disk = crashed(&[(later(1), 1), (later(2), 2), (later(3), 3)]);
        change(&disk);
        let refused = open(&disk).err().unwrap();
        assert!(refused.starts_with(error) && refused.contains("state reset"), "{refused}");
        let reset = ReplayState::reset(disk.clone(), "boot".to_owned(), NOW, WINDOW, Floors::Keep).unwrap();
        assert!(!reset.is_ahead && reset.floor >= NOW.wall.plus(WINDOW), "{error}");
        let (_, memory) = open(&disk).unwrap();
        for id in 1..=3 {
            assert!(!is_new(&memory, later(id.into()), id), "{error}");
        }
        assert!(is_new(&memory, reset.floor.plus(Duration::from_millis(1)), 9), "{error}");
    }
}

#[test]
fn a_reset_keeps_a_whole_journal_and_an_incomplete_one_only_under_a_lease_which_bounds_what_is_missing() {
    let far = NOW.wall.plus(Duration::from_secs(3_600));
    let source = LastSource { timestamp: NOW.wall, address: [203, 0, 113, 5].into() };
    for (is_whole, has_lease, kept) in
        [(true, true, true), (true, false, true), (false, true, true), (false, false, false)]
    {
        let case = format!("whole journal: {is_whole}, lease: {has_lease}");
        let disk = SimDisk::default();
        let (mut state, mut memory) = open(&disk).unwrap();
        memory.restore_floor(KEY, ReplayDomain::Datagrams, far, far);
        state.persist(&memory, NOW, WINDOW).unwrap();
        state.record_source(KEY, source);
        drop(state);
        if !is_whole {
            cut_end_mark(&disk);
        }
        if !has_lease {
            disk.remove(LEASE);
        }
        let reset = ReplayState::reset(disk.clone(), "boot".to_owned(), NOW, WINDOW, Floors::Keep).unwrap();
        let floor = if kept { far } else { NOW.wall.plus(WINDOW) };
        assert_eq!((reset.lost, reset.floor), (!kept, floor), "{case}");
        let (_, memory) = open(&disk).unwrap();
        assert_eq!(is_new(&memory, far, 1), !kept, "{case}");
        assert_eq!(memory.sources().of(KEY), kept.then_some(source), "{case}");
    }
}

#[test]
fn an_incomplete_journal_is_used_under_its_lease_in_the_same_boot() {
    let disk = crashed(&[(later(1), 1), (later(2), 2)]);
    cut_end_mark(&disk);
    let (_, memory) = open(&disk).unwrap();
    assert!(!is_new(&memory, later(1), 1) && !is_new(&memory, later(2), 2));
    // The lease: the window and a minute.
    assert!(!is_new(&memory, later(90_000), 9) && is_new(&memory, later(90_001), 9));
}

#[test]
fn a_journal_has_the_floor_of_one_time_passwords() {
    let mut memory = ReplayMemory::new(Timestamp::default());
    memory.raise_floors(NOW.wall);
    let JournalContent::Whole(read) = journal::read(&journal::whole(&memory, &[7; 8]).0) else {
        panic!("not whole")
    };
    assert_eq!((read.floor(), read.codes_floor()), (NOW.wall, NOW.wall));
}

#[test]
fn the_notices_of_a_reset_name_the_floor_and_what_was_lost() {
    let disk = crashed(&[]);
    let reset = |disk: &SimDisk, floors, now| {
        let reset = ReplayState::reset(disk.clone(), "boot".to_owned(), now, WINDOW, floors).unwrap();
        (reset.floor, reset.notices(floors))
    };
    let of = |floor| {
        let floor = clock::rfc3339(floor);
        format!("replay state: reset; accepting only knocks with a timestamp after {floor}")
    };
    let (floor, notices) = reset(&disk, Floors::Keep, NOW);
    assert_eq!(notices, [of(floor)]);

    let before = Now { wall: NOW.wall.minus(Duration::from_secs(3_600)), ..NOW };
    let (same, notices) = reset(&disk, Floors::Keep, before);
    assert_eq!((same, notices.len(), &notices[0]), (floor, 2, &of(floor)));
    assert!(notices[1].starts_with("warning: this time is further ahead than the window"), "{notices:?}");
    assert!(notices[1].contains("state reset --forget"), "{notices:?}");

    let (floor, notices) = reset(&disk, Floors::Forget, before);
    assert_eq!((floor, &notices[1..]), (before.wall.plus(WINDOW), &[of(floor)][..]));
    assert!(notices[0].starts_with("warning: the old floors were deleted: "), "{notices:?}");

    disk.remove(LEASE);
    disk.remove(JOURNAL);
    let (floor, notices) = reset(&disk, Floors::Keep, NOW);
    assert_eq!(notices[1..], [of(floor)]);
    assert!(notices[0].starts_with("warning: the old floors could not be read\n"), "{notices:?}");
}
