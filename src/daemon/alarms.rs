//! Alarms: knocks that a watcher passes on although the keeper has no such key or cannot decrypt them. They are counted
//! over a minute; `knocks.rs` decides what follows from too many.

use spa_knock_core::knock::Steady;
use std::time::Duration;

/// Signed but not sealed: so many, and the watcher is not believed any more.
pub(super) const ALARMS_MAX: u32 = 8;
/// How long alarms count, and how often they are told and lead to another watcher at most: any client could make
/// them, and must not keep the others out by it.
const ALARMS_FOR: Duration = Duration::from_secs(60);

/// Alarms of the last minute.
pub(super) struct Alarms {
    since: Steady,
    count: u32,
}

impl Alarms {
    /// None yet.
    pub(super) const fn new(now: Steady) -> Self {
        Self { since: now, count: 0 }
    }

    /// One more; how many that makes.
    pub(super) fn count(&mut self, now: Steady) -> u32 {
        if now.since(self.since) >= ALARMS_FOR {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}
