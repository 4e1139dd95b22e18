//! The checks of a datagram in watcher and keeper, connected directly, with a record in memory. `src/server.rs` lists
//! what must hold.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use spa_knock_core::auth::{Acceptance, Authentic, ReplayMemory};
use spa_knock_core::knock::Timestamp;
use spa_knock_core_fuzz::server::{self, Surroundings};

fuzz_target!(|script: &[u8]| server::run::<Memory>(script));

/// The memory that the keeper started with, and what it has accepted since.
struct Memory {
    start: ReplayMemory,
    accepted: Vec<Acceptance>,
}

impl Surroundings for Memory {
    fn begin(memory: &ReplayMemory) -> Self {
        Self { start: memory.clone(), accepted: Vec::new() }
    }

    fn append(&mut self, acceptance: &Acceptance) {
        self.accepted.push(*acceptance);
    }

    fn restart(&mut self, lost: usize, lease: Timestamp) -> ReplayMemory {
        let is_torn = lost % 2 == 1;
        if is_torn {
            self.accepted.pop();
        }
        let mut memory = self.start.clone();
        self.accepted.iter().for_each(|acceptance| memory.restore(acceptance));
        if is_torn {
            memory.raise_floors(lease);
        }
        memory
    }

    fn relay(knock: &Authentic<'_>, _: SocketAddr, judge: impl FnOnce(&Authentic<'_>)) {
        judge(knock);
    }
}
