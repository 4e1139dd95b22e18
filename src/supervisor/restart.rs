//! When a watcher is started again: later each time, unless the last one lived for a while. Shared by both kinds.

use std::time::Duration;

use crate::os::clock;
use spa_knock_core::knock::Steady;

/// Delay before the first restart, and the longest one.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// A watcher that lived for longer than this starts the delays from the beginning.
const LIVED_WELL: Duration = Duration::from_secs(60);
/// How long a watcher may be without a report; an idle one reports every 10 s.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(35);
/// How often something that is missing is looked for, where a look is cheap.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The restart policy of one watcher.
pub(crate) struct Restart {
    /// When the next attempt is due; none while all is well.
    due: Option<Steady>,
    /// The last attempt.
    last: Steady,
    delay: Duration,
}

impl Restart {
    /// A watcher has just been started.
    pub(crate) fn new() -> Self {
        Self { due: None, last: clock::steady(), delay: Duration::ZERO }
    }

    /// When the next attempt is due.
    pub(crate) const fn deadline(&self) -> Option<Steady> {
        self.due
    }

    /// How long the last delay was.
    pub(crate) const fn delay(&self) -> Duration {
        self.delay
    }

    /// Whether a repeated failure has reached the longest delay. It is logged no more then.
    pub(crate) fn is_longest(&self) -> bool {
        self.delay >= LONGEST
    }

    /// Sets the next attempt, after a longer delay than before.
    pub(crate) fn postpone(&mut self) {
        let now = clock::steady();
        self.delay = if now.since(self.last) > LIVED_WELL {
            FIRST
        } else {
            self.delay.saturating_mul(2).clamp(FIRST, LONGEST)
        };
        self.due = Some(now.plus(self.delay));
    }

    /// The same, but an attempt that is due already stays due: a watcher that asks for this again and again must not
    /// put off its own replacement.
    pub(crate) fn postpone_unless_due(&mut self) {
        if self.due.is_none() {
            self.postpone();
        }
    }

    /// Sets the next attempt to now.
    pub(crate) fn hurry(&mut self) {
        self.due = Some(clock::steady());
    }

    /// Sets the next attempt to the next cheap look.
    pub(crate) fn look_later(&mut self) {
        self.due = Some(clock::steady().plus(LOOK_EVERY));
    }

    /// Whether an attempt is due now. It is not due any more then, and its time is remembered.
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
    fn a_watcher_that_keeps_losing_interfaces_does_not_put_off_the_one_that_replaces_it() {
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
    fn the_delay_grows_until_a_watcher_lives_for_a_minute() {
        let mut restart = Restart::new();
        let mut delays = Vec::new();
        for _ in 0..12 {
            restart.postpone();
            delays.push(restart.delay());
            restart.hurry();
            assert!(restart.take_due(), "a successful start alone resets nothing");
        }
        assert_eq!(&delays[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(restart.is_longest() && delays.last() == Some(&LONGEST));
        // The steady clock may have begun less than a minute ago: nothing else is set back.
        restart.last = Steady::from_duration(Duration::ZERO);
        if clock::steady().since(restart.last) > LIVED_WELL {
            restart.postpone();
            assert_eq!(restart.delay(), FIRST);
        }
    }
}
