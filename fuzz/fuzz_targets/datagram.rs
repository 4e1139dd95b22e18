//! The whole path of a datagram, as in the daemon: watcher, message, keeper, journal. `core/fuzz/src/server.rs` lists
//! what must hold.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use spa_knock::fuzzing::{JournalText, append_acceptance, read_journal, report, reported, write_journal};
use spa_knock_core::auth::{Acceptance, Authentic, ReplayMemory};
use spa_knock_core::knock::Timestamp;
use spa_knock_core_fuzz::RECORD;
use spa_knock_core_fuzz::server::{self, Surroundings};

const NUMBER: [u8; 8] = [7; 8];

fuzz_target!(|script: &[u8]| server::run::<Daemon>(script));

/// The bytes of the journal.
struct Daemon(Vec<u8>);

impl Surroundings for Daemon {
    fn begin(memory: &ReplayMemory) -> Self {
        Self(write_journal(memory, NUMBER))
    }

    fn append(&mut self, acceptance: &Acceptance) {
        append_acceptance(&mut self.0, acceptance, NUMBER);
    }

    fn restart(&mut self, lost: usize, lease: Timestamp) -> ReplayMemory {
        // The last write is a record and the end mark.
        self.0.truncate(self.0.len() - lost % (2 * RECORD));
        match read_journal(&self.0) {
            JournalText::Whole(memory) => memory,
            JournalText::Torn(mut memory) => {
                memory.raise_floors(lease);
                memory
            }
            JournalText::Empty | JournalText::Damaged => panic!("an incomplete end was taken for damage"),
        }
    }

    fn relay(knock: &Authentic<'_>, source: SocketAddr, judge: impl FnOnce(&Authentic<'_>)) {
        let message = report(*knock, source, IpAddr::from([192, 0, 2, 1]), 3);
        let (knock, received_source) = reported(&message).expect("the written message is read");
        assert_eq!(received_source, source);
        judge(&knock);
    }
}
