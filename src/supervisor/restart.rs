//! When to restart a watcher: after a longer delay each time, unless the last one ran for a minute. Shared by both
//! kinds.

use std::time::Duration;

use crate::os::clock;
use spa_knock_core::knock::Steady;

/// Delay before the first restart, and the maximum.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// A watcher that ran for longer than this resets the delay.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Maximum time without a report; an idle watcher reports every 10 s.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(35);
/// How often to check for something that is missing, if the check is cheap.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The restart policy of one watcher.
pub(crate) struct Restart {
    /// When the next attempt is due; none while the watcher works.
    due: Option<Steady>,
    /// When the last attempt was made.
    last: Steady,
    delay: Duration,
}

impl Restart {
    /// The policy for a watcher that has just been started.
    pub(crate) fn new() -> Self {
        Self { due: None, last: clock::steady(), delay: Duration::ZERO }
    }

    /// When the next attempt is due.
    pub(crate) const fn deadline(&self) -> Option<Steady> {
        self.due
    }

    /// The last delay.
    pub(crate) const fn delay(&self) -> Duration {
        self.delay
    }

    /// Whether repeated failures have reached the longest delay. From then on they are not logged.
    pub(crate) fn is_longest(&self) -> bool {
        self.delay >= LONGEST
    }

    /// Schedules the next attempt, after a longer delay than before.
    pub(crate) fn postpone(&mut self) {
        let now = clock::steady();
        self.delay = if now.since(self.last) > STABLE_AFTER {
            FIRST
        } else {
            self.delay.saturating_mul(2).clamp(FIRST, LONGEST)
        };
        self.due = Some(now.plus(self.delay));
    }

    /// The same, but keeps an attempt that is already scheduled: a watcher that repeats its report must not delay its
    /// own replacement.
    pub(crate) fn postpone_unless_due(&mut self) {
        if self.due.is_none() {
            self.postpone();
        }
    }

    /// Schedules the next attempt for now.
    pub(crate) fn hurry(&mut self) {
        self.due = Some(clock::steady());
    }

    /// Schedules the next attempt for the next cheap check.
    pub(crate) fn look_later(&mut self) {
        self.due = Some(clock::steady().plus(LOOK_EVERY));
    }

    /// Whether an attempt is due now; if so, records it as made.
    pub(crate) fn take_due(&mut self) -> bool {
        let now = clock::steady();
        let is_due = self.due.is_some_and(|due| now >= due);
        if is_due {
            (self.due, self.last) = (None, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_that_keeps_losing_interfaces_does_not_delay_its_replacement() {
        let mut restart = Restart::new();
        restart.postpone_unless_due();
        let due = restart.due;
        assert!(due.is_some());
        for _ in 0..100 {
            restart.postpone_unless_due();
        }
        assert_eq!((restart.due, restart.delay), (due, FIRST));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn the_delay_grows_until_a_watcher_runs_for_a_minute() {
        let mut restart = Restart::new();
        let mut delays = Vec::new();
        for _ in 0..12 {
            restart.postpone();
            delays.push(restart.delay());
            restart.hurry();
            assert!(restart.take_due(), "a successful start alone does not reset the delay");
        }
        assert_eq!(&delays[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(restart.is_longest() && delays.last() == Some(&LONGEST));
        // Skipped if the steady clock began less than a minute ago.
        restart.last = Steady::from_duration(Duration::ZERO);
        if clock::steady().since(restart.last) > STABLE_AFTER {
            restart.postpone();
            assert_eq!(restart.delay(), FIRST);
        }
    }
}
