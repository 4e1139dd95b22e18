//! Points in time, of a type for each clock, so that none is compared with one of another clock or taken for a span, which
//! is a [`Duration`]. All arithmetic saturates, so that no clock, however wrong, overflows a check.

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

    /// The minute that the time falls in: what a knock's hint is made from.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.0 / 60_000
    }

    /// This much later, or the end of time.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// This much earlier, or the Unix epoch.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// How far apart two times are, whichever is later.
    #[must_use]
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time on the steady clock, which never runs backwards: for deadlines and rates. It means nothing to another
/// process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Steady(Duration);

impl Steady {
    /// The end of time: the clock never gets there.
    pub const MAX: Self = Self(Duration::MAX);

    /// The time so long after the clock's zero. For who reads the clock, and for tests.
    #[must_use]
    pub const fn from_duration(since_zero: Duration) -> Self {
        Self(since_zero)
    }

    /// How much later this is than `earlier`; nothing if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later, or the end of time.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Milliseconds since the clock's zero, for who keeps only the low bits of them.
    pub(crate) const fn as_millis(self) -> u128 {
        self.0.as_millis()
    }
}

/// A point in time on the clock of this boot, which also runs while the machine sleeps: the same for all processes until
/// the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// The time so long after the boot. For who reads the clock, and for tests.
    #[must_use]
    pub const fn from_duration(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How much later this is than `earlier`; nothing if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later, or the end of time.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Milliseconds since the boot: files that outlive the process keep them, beside the name of the boot.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        millis(self.0)
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// What the calendar says; knocks are stamped with it, and it may jump.
    pub wall: Timestamp,
    /// What the steady clock says.
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
    fn a_span_between_two_times_is_never_negative_and_no_time_is_later_than_the_last() {
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
}
