//! The limit for each key: how many different knocks of one key the watcher passes to the keeper. Without a limit, a
//! client with a valid key, or a thief of the key, could keep the keeper, the disk and the firewall busy for everyone
//! else.

use std::time::Duration;

use crate::auth::Rate;
use crate::knock::Steady;

/// A burst of knocks, and the rate at which it is refilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimit {
    /// The time in which one knock is refilled.
    interval: Duration,
    /// How far ahead of the even rate a knock may arrive.
    tolerance: Duration,
}

impl KeyLimit {
    /// Enough for any person and for 50 parallel ssh sessions that each knock twice.
    pub const BURST: u32 = 128;
    /// Knocks per second that are refilled.
    const RATE: Rate = Rate::a_second(4);
    /// For packets of a capture file, where nothing must be protected.
    pub const UNLIMITED: Self = Self { interval: Duration::ZERO, tolerance: Duration::ZERO };

    /// A burst of `burst` knocks, at least 1, and `rate` on average.
    #[must_use]
    pub fn new(burst: u32, rate: Rate) -> Self {
        let interval = rate.interval();
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)) }
    }

    /// What the watcher passes on of a key of protocol version 2, whose signatures it cannot verify: more than the keeper
    /// verifies.
    #[must_use]
    pub fn unverified() -> Self {
        Self::new(Self::BURST, Rate::a_second(100))
    }

    /// What the watcher passes on of all keys of version 2 together: twice what the keeper verifies. What comes from the
    /// addresses of last grants is not part of it.
    #[must_use]
    pub fn unverified_in_total() -> Self {
        Self::new(256, Rate::a_second(2_000))
    }

    /// How long a key must rest for its next knock to need no token that all keys share: the thieves of other keys cannot
    /// use that up.
    pub(in crate::auth) const REST: Duration = Duration::from_secs(10);

    /// The greater rate of both, and the greater burst.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        let burst = |limit: Self| limit.tolerance.as_nanos().checked_div(limit.interval.as_nanos());
        // A limit without an interval has no end.
        let (Some(own), Some(others)) = (burst(self), burst(other)) else { return Self::UNLIMITED };
        let interval = self.interval.min(other.interval);
        let burst = u32::try_from(own.max(others)).unwrap_or(u32::MAX);
        Self { interval, tolerance: interval.saturating_mul(burst) }
    }

    /// Restores a limit from the numbers of [`KeyLimit::to_nanos`].
    #[must_use]
    pub const fn from_nanos([interval, tolerance]: [u64; 2]) -> Self {
        Self { interval: Duration::from_nanos(interval), tolerance: Duration::from_nanos(tolerance) }
    }

    /// The interval and the tolerance in nanoseconds, which describe the limit completely.
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

/// A token bucket as a single number (the generic cell rate algorithm): the time at which the next knock is due if all
/// keep to the rate. The bucket is full once that time has passed, and before the first knock.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::auth) struct TokenBucket(Option<Steady>);

impl TokenBucket {
    /// Whether there is a token at `now`.
    #[must_use]
    pub(in crate::auth) fn has_token(self, limit: KeyLimit, now: Steady) -> bool {
        self.0.is_none_or(|next| next.since(now) <= limit.tolerance)
    }

    /// Whether no token has been taken for some time.
    #[must_use]
    pub(in crate::auth) fn has_rested(self, time: Duration, now: Steady) -> bool {
        self.0.is_none_or(|next| now.since(next) >= time)
    }

    /// Takes one token at `now`. Returns whether there was one.
    #[must_use]
    pub(in crate::auth) fn take(&mut self, limit: KeyLimit, now: Steady) -> bool {
        let expected = self.0.map_or(now, |next| next.max(now));
        let is_admitted = expected.since(now) <= limit.tolerance;
        if is_admitted {
            self.0 = Some(expected.plus(limit.interval));
        }
        is_admitted
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
    fn a_burst_passes_and_then_only_refilled_tokens() {
        let (mut bucket, limit) = (TokenBucket::default(), KeyLimit::default());
        let second = |seconds| at(Duration::from_secs(seconds));
        assert_eq!(taken(&mut bucket, limit, second(100)), 128);
        assert_eq!(taken(&mut bucket, limit, second(101)), 4);
        assert_eq!(taken(&mut bucket, limit, second(101)), 0);
        assert_eq!(taken(&mut bucket, limit, second(10_000)), 128, "no more than a burst accumulates");
    }

    #[test]
    fn everything_passes_without_a_limit() {
        assert_eq!(taken(&mut TokenBucket::default(), KeyLimit::UNLIMITED, at(Duration::ZERO)), 1_000);
    }

    #[test]
    fn of_two_limits_the_greater_rate_and_the_greater_burst_remain() {
        let limit = |burst, rate| KeyLimit::new(burst, Rate::a_second(rate));
        for (one, other, expected) in [
            (limit(1_000, 4), limit(128, 100), limit(1_000, 100)),
            (limit(10, 4), limit(128, 100), limit(128, 100)),
            (limit(200, 500), limit(128, 100), limit(200, 500)),
            (KeyLimit::UNLIMITED, limit(128, 100), KeyLimit::UNLIMITED),
        ] {
            assert_eq!(one.at_least(other), expected);
            assert_eq!(other.at_least(one), expected);
        }
    }

    proptest! {
        #[test]
        fn a_bucket_agrees_with_a_count_of_tokens(
            burst in 1_u32..20,
            steps in proptest::collection::vec(0_u64..3_000, 1..300),
        ) {
            let limit = KeyLimit::new(burst, "2/s".parse().unwrap());
            let mut bucket = TokenBucket::default();
            // The oracle counts thousandths of a token: 2 tokens a second are 2 thousandths a millisecond.
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
        fn a_limit_survives_its_conversion_for_the_watcher(burst in 1_u32..100_000, count in 1_u16..10_000) {
            let limit = KeyLimit::new(burst, Rate::a_second(count));
            prop_assert_eq!(KeyLimit::from_nanos(limit.to_nanos()), limit);
        }
    }
}
