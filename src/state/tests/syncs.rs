//! Tests of background writes: longer leases on request, pauses, the rewritten journal, and what happens if they fail.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::time::Duration;

use super::crash_model::SimDisk;
use super::{KEY, NOW, WINDOW, after, open};
use crate::os::poll::{Polled, readable};
use crate::state::disk::Disk;
use crate::state::journal::{JournalContent, JournalRecord, read};
use crate::state::journal_file::JournalFile;
use crate::state::otp_pauses::{OtpPauses, PAUSES};
use crate::state::replay::ReplayState;
use spa_knock_core::auth::{OtpPause, ReplayDomain, ReplayMemory, UseCounts};
#[cfg(feature = "fwknop")]
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Timestamp;

const HOUR: Duration = Duration::from_secs(3_600);
const JOURNAL: &str = "replay.journal";

#[cfg(feature = "fwknop")]
fn is_new(memory: &ReplayMemory, key: Fingerprint, timestamp: Timestamp) -> bool {
    memory.check(key, ReplayDomain::Datagrams, timestamp, &[9; 12]).is_ok()
}

#[cfg(feature = "fwknop")]
#[test]
fn a_longer_lease_for_one_key_is_written_on_request_and_refuses_only_knocks_of_that_key() {
    const OTHER: Fingerprint = Fingerprint::from_bytes([8; 8]);
    let disk = SimDisk::default();
    let (mut state, memory) = open(&disk, "boot-0");
    let far = NOW.wall.plus(HOUR);
    assert_eq!(state.deadline(), None, "nothing waits");
    assert!(!state.reaches_for(KEY, far));
    assert_eq!(state.deadline(), Some(NOW.steady), "a knock waits");
    state.run_due(&memory, NOW, WINDOW);
    assert_eq!(state.deadline(), None, "it is being written");

    // Requested while it is written: a shorter one is included, a longer one is written next.
    let further = far.plus(HOUR);
    assert!(!state.reaches_for(KEY, far) && !state.reaches_for(OTHER, further));
    state.run_due(&memory, NOW, WINDOW);
    state.settle();
    assert_eq!(state.ended().lease, Some(Ok(())));
    assert!(state.reaches_for(KEY, far) && !state.reaches_for(KEY, further));
    state.run_due(&memory, after(200), WINDOW);
    state.settle();
    assert!(state.reaches_for(KEY, further) && state.reaches_for(OTHER, further) && !state.reaches(far));
    assert!(state.ended().lease.is_some() && state.ended().lease.is_none(), "reported once");

    drop(state);
    let (_, memory) = open(&disk, "boot-1");
    assert!(!is_new(&memory, KEY, further) && !is_new(&memory, OTHER, further), "after a power loss");
    assert!(is_new(&memory, Fingerprint::from_bytes([1; 8]), far), "another key is not locked out");
}

#[cfg(feature = "fwknop")]
#[test]
fn a_longer_lease_that_cannot_be_written_is_reported_and_covers_nothing_until_it_is_requested_again() {
    let disk = SimDisk::default();
    let (mut state, memory) = open(&disk, "boot-0");
    let far = NOW.wall.plus(HOUR);
    disk.fail_every(Some(1));
    assert!(!state.reaches_for(KEY, far));
    state.run_due(&memory, NOW, WINDOW);
    state.settle();
    assert_eq!(state.ended().lease, Some(Err("replay state: sim: the disk fails".to_owned())));
    assert_eq!((state.deadline(), state.can_record()), (None, false));
    disk.fail_every(None);
    assert!(!state.reaches_for(KEY, far));
    assert_eq!(state.deadline(), Some(after(200).steady));
    state.run_due(&memory, after(199), WINDOW);
    state.settle();
    assert!(state.ended().lease.is_none(), "not before it is due");
    state.run_due(&memory, after(200), WINDOW);
    state.settle();
    assert_eq!((state.ended().lease, state.can_record()), (Some(Ok(())), true));
    assert!(state.reaches_for(KEY, far));
}

#[test]
fn what_is_persisted_survives_a_power_loss_with_a_lease_that_covers_it() {
    let disk = SimDisk::default();
    let (mut state, mut memory) = open(&disk, "boot-0");
    let far = NOW.wall.plus(HOUR);
    memory.raise_floors(far);
    let accepted = memory.accept(KEY, ReplayDomain::Datagrams, far.plus(WINDOW), [1; 12], WINDOW).unwrap();
    disk.fail_every(Some(1));
    assert!(state.persist(&memory, NOW, WINDOW).is_err());
    assert!(state.record(&accepted).is_err(), "nothing is covered that is not on disk");
    disk.fail_every(None);
    state.persist(&memory, NOW, WINDOW).unwrap();
    drop(state);
    disk.lose_power();
    let (mut state, restored) = open(&disk, "boot-0");
    assert_eq!(restored.highest(), far.plus(WINDOW));
    assert!(restored.knows(KEY, ReplayDomain::Datagrams, &[1; 12]));
    assert!(state.reaches(far));
}

#[test]
fn pauses_are_written_when_one_is_added_or_ends_and_a_failure_refuses_no_knock() {
    let disk = SimDisk::default();
    let (mut state, memory) = open(&disk, "boot-0");
    let pauses = |count: u32, until: u64| {
        let pause = OtpPause { count, until: Timestamp::from_millis(until) };
        OtpPauses::from([("laptop".parse().unwrap(), pause)])
    };
    let mut write = |pauses: OtpPauses| {
        state.record_otp_pauses(pauses);
        state.run_due(&memory, NOW, WINDOW);
        state.settle();
        let text = disk.read(PAUSES).unwrap().unwrap_or_default();
        (String::from_utf8(text).unwrap(), state.can_record())
    };
    assert_eq!(write(OtpPauses::new()), (String::new(), true), "there is none");
    let first = "spa-knock otp-pauses 1\nlaptop 1 5000\n".to_owned();
    assert_eq!(write(pauses(1, 5_000)), (first.clone(), true));
    assert_eq!(write(pauses(1, 5_003)), (first.clone(), true), "the same pause, computed again");
    disk.fail_every(Some(1));
    assert_eq!(write(pauses(2, 9_000)), (first, true), "not written");
    disk.fail_every(None);
    assert_eq!(write(pauses(3, 9_000)).0, "spa-knock otp-pauses 1\nlaptop 3 9000\n");
    let (state, _) = open(&disk, "boot-1");
    assert_eq!(*state.otp_pauses(), pauses(3, 9_000), "also after a reboot");
}

#[test]
fn a_finished_write_makes_a_descriptor_readable_until_it_is_collected() {
    let (mut state, memory) = open(&SimDisk::default(), "boot-0");
    let is_readable = |state: &ReplayState<SimDisk>, limit| {
        let mut fds = Vec::new();
        state.fds(&mut fds);
        readable(&fds, limit).unwrap() == [true]
    };
    assert!(!is_readable(&state, Duration::ZERO));
    let mut uses = UseCounts::default();
    uses.set("laptop".parse().unwrap(), 3);
    state.begin_uses(uses.clone());
    assert!(is_readable(&state, Duration::from_secs(60)));
    state.run_due(&memory, NOW, WINDOW);
    assert_eq!((state.ended().uses, state.uses()), (Some(Ok(())), &uses));
    assert!(!is_readable(&state, Duration::ZERO));
}

#[test]
fn a_rewrite_that_fails_leaves_the_journal_in_use_and_is_tried_again() {
    let disk = SimDisk::default();
    let (mut state, mut memory) = open(&disk, "boot-0");
    // A new one with each rewrite.
    let number = || disk.read(JOURNAL).unwrap().unwrap()[1..9].to_vec();
    let first = number();
    let mut accepted = 0;
    for (disk_fails, is_rewritten) in [(true, false), (true, false), (false, true)] {
        for _ in 0..32 {
            accepted += 1;
            let id = [accepted; 12];
            let acceptance = memory.accept(KEY, ReplayDomain::Datagrams, after(1).wall, id, WINDOW).unwrap();
            state.record(&acceptance).unwrap();
        }
        disk.fail_every(disk_fails.then_some(1));
        state.run_due(&memory, NOW, WINDOW);
        state.settle();
        disk.fail_every(None);
        assert_eq!((number() != first, state.can_record()), (is_rewritten, true));
        let (_, restored) = open(&disk.copy(), "boot-0");
        assert!((1..=accepted).all(|n| restored.knows(KEY, ReplayDomain::Datagrams, &[n; 12])));
    }
}

#[test]
fn on_a_full_disk_the_journal_stays_whole_and_its_rewrite_is_due_when_its_space_is_used_up() {
    let disk = SimDisk::default();
    let mut memory = ReplayMemory::new(Timestamp::default());
    let mut journal = JournalFile::write(&disk, &memory).unwrap();
    disk.fill(true);
    let accept = |memory: &mut ReplayMemory, n: u8| {
        let accepted = memory.accept(KEY, ReplayDomain::Datagrams, NOW.wall, [n; 12], WINDOW);
        JournalRecord::Accepted(accepted.unwrap())
    };
    let mut recorded = 0;
    let failure = loop {
        // A rewrite that fails, just before the space is used up: the next one would be due later.
        if journal.is_long() {
            disk.fail_every(Some(1));
            let written = journal.begin_rewrite(disk.clone(), memory.clone())();
            assert!(journal.finish_rewrite(&disk, written).is_err());
            disk.fail_every(None);
        }
        let entry = accept(&mut memory, recorded + 1);
        match journal.append(&disk, entry) {
            Ok(()) => recorded += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(failure, "replay state: sim: no storage space");
    assert!(journal.is_long(), "due now, not after some more records");
    let JournalContent::Whole(on_disk) = read(&disk.read(JOURNAL).unwrap().unwrap()) else {
        panic!("not whole after {recorded} records")
    };
    let ids = |memory: &ReplayMemory| memory.acceptances().map(|accepted| accepted.id[0]).collect::<Vec<_>>();
    assert_eq!(ids(&on_disk), (1..=recorded).collect::<Vec<_>>());

    // A rewrite that omits old records needs no more space than is reserved.
    let written = journal.begin_rewrite(disk.clone(), ReplayMemory::new(NOW.wall))();
    journal.finish_rewrite(&disk, written).unwrap();
    assert!(!journal.is_long());
}
