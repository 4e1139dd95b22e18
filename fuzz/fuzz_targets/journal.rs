//! Any bytes are a journal or damage. Knocks recorded in a journal are refused, also after it has been rewritten. The
//! first byte selects whether header and checksums are corrected, so that the code behind them is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spa_knock::fuzzing::{JournalText, read_journal, write_journal};
use spa_knock_core::auth::{ReplayDomain, ReplayMemory};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Timestamp;
use spa_knock_core::wire::Reader;
use spa_knock_core_fuzz::{RECORD, form};

/// A key and an id that are in no journal, except by chance.
const UNKNOWN_KEY: Fingerprint = Fingerprint::from_bytes([0xA5; 8]);
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

/// Checks that everything recorded as accepted in the bytes of the journal, or at or below a floor, is refused.
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
            2 => {
                assert!(memory.check(UNKNOWN_KEY, domain, floor, &NO_ID).is_err() && memory.floor() >= floor)
            }
            10 => {
                assert!(
                    memory.check(UNKNOWN_KEY, domain, floor, &NO_ID).is_err()
                        && memory.codes_floor() >= floor
                )
            }
            3 | 6 | 8 => {
                assert!(memory.check(key, domain, floor, &NO_ID).is_err() && memory.highest() >= timestamp)
            }
            4 | 7 | 9 => {
                assert!(memory.check(key, domain, timestamp, id).is_err(), "already accepted");
                assert!(memory.check(key, domain, floor, &NO_ID).is_err(), "at the floor");
            }
            _ => {}
        }
    }
}

/// Checks that it refuses the same after writing and reading.
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
