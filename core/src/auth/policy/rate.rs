//! How often a client may act: a sliding window over its recent acts.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::knock::Steady;

/// A maximum number of acts in a span of time, written `10/m` (s, m, h, d).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u16,
    per: Duration,
}

/// Error: the text is not a rate. Its `Display` shows the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRate;

impl Rate {
    /// At most `count` acts in any second.
    #[must_use]
    pub const fn a_second(count: u16) -> Self {
        Self { count, per: Duration::from_secs(1) }
    }

    /// The interval of evenly spaced acts at this rate.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per.checked_div(self.count.into()).unwrap_or(self.per)
    }
}

impl fmt::Display for InvalidRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected a rate such as 10/m: 1 to 10000 per second (s), minute (m), hour (h) or day (d)",
        )
    }
}

impl std::error::Error for InvalidRate {}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (count, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let count = count.parse().map_err(|_| InvalidRate)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(InvalidRate),
        };
        if !(1..=10_000).contains(&count) {
            return Err(InvalidRate);
        }
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            3_600 => "h",
            _ => "d",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// The times of one client's recent acts; at most as many as its rate allows.
#[derive(Debug, Default)]
pub struct RecentActs(VecDeque<Steady>);

impl RecentActs {
    /// Counts one more act at `now` unless the rate is exhausted. Returns whether it was counted.
    #[must_use]
    pub fn admit(&mut self, rate: Rate, now: Steady) -> bool {
        let admitted = self.has_room(rate, now);
        if admitted {
            self.count(now);
        }
        admitted
    }

    /// Whether one more act at `now` would be within the rate.
    #[must_use]
    pub fn has_room(&mut self, rate: Rate, now: Steady) -> bool {
        // An act leaves the window when its age equals the window's length.
        while self.0.front().is_some_and(|&act| now.since(act) >= rate.per) {
            self.0.pop_front();
        }
        self.0.len() < usize::from(rate.count)
    }

    /// Counts an act for which [`RecentActs::has_room`] was true.
    pub fn count(&mut self, now: Steady) {
        self.0.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_unit() {
        for text in ["1/s", "10/m", "10000/h", "3/d"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "10", "0/m", "10001/s", "10/w", "-1/s", "1.5/s", "10/minute"] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text}");
        }
        assert_eq!(
            InvalidRate.to_string(),
            "expected a rate such as 10/m: 1 to 10000 per second (s), minute (m), hour (h) or day (d)"
        );
    }

    proptest! {
        #[test]
        #[allow(clippy::disallowed_methods, reason = "a test")]
        fn no_window_contains_more_acts_than_the_rate(steps in proptest::collection::vec(0_u64..40, 1..200)) {
            let rate: Rate = "5/m".parse().unwrap();
            let mut recent = RecentActs::default();
            let mut acts: Vec<Duration> = Vec::new();
            let mut now = Duration::ZERO;
            for step in steps {
                now += Duration::from_secs(step);
                // The oracle examines every earlier act.
                let in_window = acts.iter().filter(|&&act| now - act < rate.per).count();
                let admitted = recent.admit(rate, Steady::from_duration(now));
                prop_assert_eq!(admitted, in_window < 5);
                if admitted {
                    acts.push(now);
                }
            }
        }
    }
}
