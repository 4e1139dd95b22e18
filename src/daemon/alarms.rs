//! Counts alarms per minute. An alarm is a knock that the watcher passed on although the keeper does not know its key
//! or cannot decrypt it. `knocks.rs` decides what happens after too many.

use spa_knock_core::knock::Steady;
use std::time::Duration;

/// After this many alarms within [`ALARMS_FOR`], the watcher is no longer trusted.
pub(super) const ALARMS_MAX: u32 = 8;
/// How long alarms are counted. It also limits log lines and watcher replacements to one batch per minute: any client
/// can cause alarms, and must not be able to block the others with them.
const ALARMS_FOR: Duration = Duration::from_secs(60);

/// The number of alarms in the current minute.
pub(super) struct Alarms {
    since: Steady,
    count: u32,
}

impl Alarms {
    /// Starts with no alarms.
    pub(super) const fn new(now: Steady) -> Self {
        Self { since: now, count: 0 }
    }

    /// Counts one alarm and returns the number in the current minute.
    pub(super) fn count(&mut self, now: Steady) -> u32 {
        if now.since(self.since) >= ALARMS_FOR {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}
