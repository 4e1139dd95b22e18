//! Any bytes amount to a journal or to damage. What a journal has on record is refused, also once it has been written
//! anew. The first byte says whether header and checksums are put right, so that what lies behind them is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spa_knock::fuzzing::{JournalText, read_journal, write_journal};
use spa_knock_core::auth::{ReplayDomain, ReplayMemory};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Timestamp;
use spa_knock_core::wire::Reader;
use spa_knock_core_fuzz::{RECORD, form};

/// A key and an id that no journal has, but by chance.
const NOBODY: Fingerprint = Fingerprint::from_bytes([0xA5; 8]);
const NO_ID: [u8; 12] = [0x5A; 12];

fuzz_target!(|data: &[u8]| {
    let (form, bytes) = form(data);
    let bytes = form.journal(bytes);
    match read_journal(&bytes) {
        JournalText::Whole(memory) => {
            refuses_records(&memory, &bytes);
            survives(&memory);
        }
        JournalText::Torn(memory) => survives(&memory),
        JournalText::Empty | JournalText::Damaged => {}
    }
});

/// Everything that the journal's own bytes say was accepted, or lies at or under a floor.
fn refuses_records(memory: &ReplayMemory, journal: &[u8]) {
    for record in journal.chunks_exact(RECORD) {
        let mut reader = Reader::new(record);
        let kind = reader.u8().unwrap();
        let key = Fingerprint::from_bytes(*reader.array().unwrap());
        let mut time = || Timestamp::from_millis(reader.u64().unwrap());
        let (timestamp, floor) = (time(), time());
        let id = reader.array().unwrap();
        let domain = match kind {
            6 | 7 => ReplayDomain::Ports,
            8..=10 => ReplayDomain::Codes,
            _ => ReplayDomain::Datagrams,
        };
        match kind {
            2 => assert!(memory.check(NOBODY, domain, floor, &NO_ID).is_err() && memory.floor() >= floor),
            10 => {
                assert!(memory.check(NOBODY, domain, floor, &NO_ID).is_err() && memory.codes_floor() >= floor)
            }
            3 | 6 | 8 => {
                assert!(memory.check(key, domain, floor, &NO_ID).is_err() && memory.highest() >= timestamp)
            }
            4 | 7 | 9 => {
                assert!(memory.check(key, domain, timestamp, id).is_err(), "accepted once already");
                assert!(memory.check(key, domain, floor, &NO_ID).is_err(), "under the floor");
            }
            _ => {}
        }
    }
}

/// Written anew and read again, it refuses as much.
fn survives(memory: &ReplayMemory) {
    let JournalText::Whole(again) = read_journal(&write_journal(memory, [7; 8])) else { panic!("not whole") };
    for accepted in memory.acceptances() {
        assert!(again.check(accepted.key, accepted.domain, accepted.timestamp, &accepted.id).is_err());
    }
    for (key, domain, floor, _) in memory.floors() {
        assert!(again.check(key, domain, floor, &NO_ID).is_err());
    }
    assert_eq!((again.floor(), again.highest()), (memory.floor(), memory.highest()));
    assert_eq!(again.codes_floor(), memory.codes_floor());
}
