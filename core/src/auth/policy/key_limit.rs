//! What one key may cost: how many different knocks of it go to the keeper. Without this, a client with a valid key, or a
//! thief of one, could keep the keeper, the disk and the firewall busy for all others.

use std::time::Duration;

use crate::auth::Rate;
use crate::knock::Steady;

/// A burst of knocks, and how fast another burst is earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimit {
    /// How long one knock takes to earn.
    interval: Duration,
    /// How far ahead of its time a knock may come.
    tolerance: Duration,
}

impl KeyLimit {
    /// Fits any human and 50 parallel ssh sessions that each knock twice.
    pub const BURST: u32 = 128;
    /// Knocks a second that are earned.
    const RATE: Rate = Rate::a_second(4);
    /// For packets of a trace, where nobody has to be protected.
    pub const UNLIMITED: Self = Self { interval: Duration::ZERO, tolerance: Duration::ZERO };

    /// `burst` knocks at once, at least 1, and `rate` in the long run.
    #[must_use]
    pub fn new(burst: u32, rate: Rate) -> Self {
        let interval = rate.interval();
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)) }
    }

    /// The same from the numbers that [`KeyLimit::to_nanos`] gives.
    #[must_use]
    pub const fn from_nanos([interval, tolerance]: [u64; 2]) -> Self {
        Self { interval: Duration::from_nanos(interval), tolerance: Duration::from_nanos(tolerance) }
    }

    /// Two numbers that say it all, in nanoseconds.
    #[must_use]
    pub fn to_nanos(self) -> [u64; 2] {
        [self.interval, self.tolerance].map(|span| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Default for KeyLimit {
    fn default() -> Self {
        Self::new(Self::BURST, Self::RATE)
    }
}

/// A token bucket in one number (the generic cell rate algorithm): when the next knock would come if all had kept to the
/// rate. It is full when that is over, and before the first knock.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::auth) struct TokenBucket(Option<Steady>);

impl TokenBucket {
    /// Takes one token at `now`; whether there was one.
    #[must_use]
    pub(in crate::auth) fn take(&mut self, limit: KeyLimit, now: Steady) -> bool {
        let expected = self.0.map_or(now, |next| next.max(now));
        let there_is_one = expected.since(now) <= limit.tolerance;
        if there_is_one {
            self.0 = Some(expected.plus(limit.interval));
        }
        there_is_one
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(time: Duration) -> Steady {
        Steady::from_duration(time)
    }

    fn taken(bucket: &mut TokenBucket, limit: KeyLimit, now: Steady) -> usize {
        (0..1_000).filter(|_| bucket.take(limit, now)).count()
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_are_earned() {
        let (mut bucket, limit) = (TokenBucket::default(), KeyLimit::default());
        let second = |seconds| at(Duration::from_secs(seconds));
        assert_eq!(taken(&mut bucket, limit, second(100)), 128);
        assert_eq!(taken(&mut bucket, limit, second(101)), 4);
        assert_eq!(taken(&mut bucket, limit, second(101)), 0);
        assert_eq!(taken(&mut bucket, limit, second(10_000)), 128, "no more than a burst is saved");
    }

    #[test]
    fn without_a_limit_everything_passes() {
        assert_eq!(taken(&mut TokenBucket::default(), KeyLimit::UNLIMITED, at(Duration::ZERO)), 1_000);
    }

    proptest! {
        #[test]
        fn a_bucket_is_like_one_that_counts_its_tokens(
            burst in 1_u32..20,
            steps in proptest::collection::vec(0_u64..3_000, 1..300),
        ) {
            let limit = KeyLimit::new(burst, "2/s".parse().unwrap());
            let mut bucket = TokenBucket::default();
            // The oracle counts thousandths of a token; 2 a second are 2 of them a millisecond.
            let full = u64::from(burst) * 1_000;
            let (mut thousandths, mut now) = (full, Duration::ZERO);
            for step in steps {
                now += Duration::from_millis(step);
                thousandths = full.min(thousandths + step * 2);
                let expected = thousandths >= 1_000;
                prop_assert_eq!(bucket.take(limit, at(now)), expected);
                if expected {
                    thousandths -= 1_000;
                }
            }
        }

        #[test]
        fn a_limit_is_the_same_after_its_way_to_the_watcher(burst in 1_u32..100_000, count in 1_u16..10_000) {
            let limit = KeyLimit::new(burst, Rate::a_second(count));
            prop_assert_eq!(KeyLimit::from_nanos(limit.to_nanos()), limit);
        }
    }
}
