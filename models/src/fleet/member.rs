//! A member: its replay memory, and what has become of its attempts.

use super::{TIMESTAMPS, Time, WINDOW};

/// A member of the fleet.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) is_up: bool,
    /// The number of the process, which a crash increases.
    pub(super) process: usize,
    /// The replay memory: `core/src/auth/keeper/replay.rs`.
    pub(super) floor: Time,
    /// What has become of each knock. A knock with any progress is in the replay memory.
    pub(super) progress: [Progress; TIMESTAMPS.len()],
    /// The cluster id of the store that the member trusts.
    pub(super) generation: Option<u8>,
    /// The highest revision that it has seen.
    pub(super) revision: u8,
}

/// What has become of a knock at one member.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not received.
    None,
    /// Its claim has been sent.
    Waiting,
    /// The outcome of its claim is known, or it is not new anyway.
    Settled,
    /// There was no outcome in time: status 7.
    Refused,
}

/// An attempt to claim a knock. A process makes at most one for each knock.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub(super) knock: usize,
    pub(super) member: usize,
    pub(super) process: usize,
}

impl Member {
    pub(super) const fn new() -> Self {
        Self {
            is_up: true,
            process: 0,
            floor: -1,
            progress: [Progress::None; TIMESTAMPS.len()],
            generation: Some(0),
            revision: 0,
        }
    }

    /// Whether a knock with this timestamp passes the checks of freshness and replay.
    pub(super) fn accepts(&self, timestamp: Time, clock: Time) -> bool {
        self.is_up && (timestamp - clock).abs() <= WINDOW && timestamp > self.floor
    }

    /// Remembers a knock.
    pub(super) fn remember(&mut self, timestamp: Time) {
        self.floor = self.floor.max(timestamp - 2 * WINDOW);
    }

    /// Ends the process; everything that it knew is lost, also on disk.
    pub(super) fn crash(&mut self) {
        *self = Self { is_up: false, process: self.process + 1, generation: self.generation, ..Self::new() };
    }
}
