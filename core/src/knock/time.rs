//! Points in time. All arithmetic saturates, so that no clock, however wrong, overflows a check.

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

/// One reading of both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// What the calendar says; knocks are stamped with it, and it may jump.
    pub wall: Timestamp,
    /// Time since some fixed point, which never runs backwards: for deadlines and rates.
    pub steady: Duration,
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
}
