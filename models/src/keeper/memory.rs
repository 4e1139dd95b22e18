//! The replay memory of one key in one replay domain: `core/src/auth/keeper/replay.rs`.

use super::{KNOCKS, TIMESTAMPS, Time, WINDOW};

/// What is remembered of accepted knocks.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Memory {
    /// The floor of keys without a memory.
    pub(super) common: Time,
    pub(super) floor: Time,
    pub(super) high: Time,
    pub(super) ids: [bool; KNOCKS],
}

impl Memory {
    /// `ReplayMemory::new`.
    pub(super) const fn new(floor: Time) -> Self {
        Self { common: floor, floor, high: floor, ids: [false; KNOCKS] }
    }

    /// `ReplayMemory::accept`; false if the knock is not new.
    pub(super) fn accept(&mut self, knock: usize) -> bool {
        let is_new = TIMESTAMPS[knock] > self.floor && !self.ids[knock];
        if is_new {
            self.restore(knock);
        }
        is_new
    }

    /// `ReplayMemory::restore`.
    pub(super) fn restore(&mut self, knock: usize) {
        self.ids[knock] = true;
        self.high = self.high.max(TIMESTAMPS[knock]);
        self.raise(self.high - 2 * WINDOW);
    }

    /// `ReplayMemory::raise_floors`.
    pub(super) fn raise_all(&mut self, to: Time) {
        self.common = self.common.max(to);
        self.raise(to);
    }

    /// `Memory::raise_floor`.
    pub(super) fn raise(&mut self, to: Time) {
        self.floor = self.floor.max(to);
        self.high = self.high.max(self.floor);
        for (id, timestamp) in self.ids.iter_mut().zip(TIMESTAMPS) {
            *id &= timestamp > self.floor;
        }
    }
}
