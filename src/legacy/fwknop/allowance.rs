//! How many packets may cost work: a burst, and a rate at which it is refilled.

use std::time::Duration;

use spa_knock_core::knock::Steady;

/// A token bucket as a single number (the generic cell rate algorithm): the time at which the next unit is due if all
/// keep to the rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    interval: Duration,
    tolerance: Duration,
    next: Option<Steady>,
}

impl Allowance {
    /// `burst` units, at least 1, and `rate` per second on average, at least 1.
    pub(super) fn new(burst: u32, rate: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(rate.max(1)).unwrap_or(Duration::from_secs(1));
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)), next: None }
    }

    /// Takes `units`. Returns whether there was at least one left: the last ones may be owed.
    #[must_use]
    pub(super) fn take(&mut self, units: u32, now: Steady) -> bool {
        let due = self.next.map_or(now, |next| next.max(now));
        let is_left = due.since(now) <= self.tolerance;
        if is_left {
            self.next = Some(due.plus(self.interval.saturating_mul(units)));
        }
        is_left
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let at = |ms| Steady::from_duration(Duration::from_millis(ms));
        let mut allowance = Allowance::new(3, 10);
        assert_eq!([(); 5].map(|()| allowance.take(1, at(1_000))), [true, true, true, false, false]);
        assert_eq!(
            [1_099, 1_100, 1_101, 1_201].map(|ms| allowance.take(1, at(ms))),
            [false, true, false, true]
        );
        assert_eq!([(); 4].map(|()| allowance.take(1, at(9_000))), [true, true, true, false]);

        let mut units = Allowance::new(3, 10);
        assert!(units.take(30, at(0)) && !units.take(1, at(2_700)) && units.take(1, at(2_800)));
    }
}
