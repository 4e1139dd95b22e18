//! Points in time, with a separate type for each clock, so that times of different clocks are never compared or
//! confused with spans ([`Duration`]). All arithmetic saturates, so that no clock value overflows a check.

use std::time::Duration;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `ms` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Unix time in minutes, rounded down: the input of a knock's hint.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.0 / 60_000
    }

    /// The time `span` later, or the latest representable time.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// The time `span` earlier, or the Unix epoch if that is later.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// The absolute difference of two times.
    #[must_use]
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time on the monotonic clock, which never runs backwards: for deadlines and rates. It has no meaning in
/// another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Steady(Duration);

impl Steady {
    /// The latest representable time; the clock never reaches it.
    pub const MAX: Self = Self(Duration::MAX);

    /// The time `since_zero` after the clock's zero. Only for code that reads the clock, and for tests.
    #[must_use]
    pub const fn from_duration(since_zero: Duration) -> Self {
        Self(since_zero)
    }

    /// The time elapsed since `earlier`, or zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time `span` later, or the latest representable time.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Milliseconds since the clock's zero, for code that keeps only the low bits.
    pub(crate) const fn as_millis(self) -> u128 {
        self.0.as_millis()
    }
}

/// A point in time on the boot clock, which keeps running while the machine sleeps. All processes share it until the
/// next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// The time `since_boot` after the boot. Only for code that reads the clock, and for tests.
    #[must_use]
    pub const fn from_duration(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time elapsed since `earlier`, or zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time `span` later, or the latest representable time.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Milliseconds since the boot. Files that outlive the process store them together with the boot id.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        millis(self.0)
    }
}

/// One reading of the wall clock and the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The wall clock, which may jump. Knocks are stamped with it.
    pub wall: Timestamp,
    /// The monotonic clock.
    pub steady: Steady,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_on_times_saturates() {
        let end = Timestamp::from_millis(u64::MAX);
        assert_eq!(end.plus(Duration::MAX), end);
        assert_eq!(Timestamp::default().minus(Duration::from_secs(1)), Timestamp::default());
        assert_eq!(Timestamp::default().distance(end), end.distance(Timestamp::default()));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn a_span_is_never_negative_and_no_time_is_later_than_the_last() {
        let second = Duration::from_secs;
        let [early, late] = [1, 3].map(|time| Steady::from_duration(second(time)));
        assert_eq!((late.since(early), early.since(late)), (second(2), Duration::ZERO));
        assert_eq!((early.plus(second(2)), late.plus(Duration::MAX)), (late, Steady::MAX));
        assert_eq!(Steady::MAX.plus(Duration::from_nanos(1)), Steady::MAX);
        let [early, late, last] = [second(1), second(3), Duration::MAX].map(BootTime::from_duration);
        assert_eq!((late.since(early), early.since(late)), (second(2), Duration::ZERO));
        assert_eq!((early.plus(second(2)), late.plus(Duration::MAX)), (late, last));
        assert_eq!((early.as_millis(), last.as_millis()), (1_000, u64::MAX));
    }

    #[test]
    fn an_epoch_is_a_minute_and_an_earlier_time_is_that_much_earlier() {
        for (ms, epoch) in [(0, 0), (59_999, 0), (60_000, 1), (1_795_331_877_123, 29_922_197)] {
            assert_eq!(Timestamp::from_millis(ms).epoch(), epoch);
        }
        assert_eq!(
            Timestamp::from_millis(5_000).minus(Duration::from_secs(2)),
            Timestamp::from_millis(3_000)
        );
    }
}
