//! The knock range of port sequences, and the time steps when they are valid (`docs/internals/protocol.md`, section 7).

use super::Timestamp;

/// Number of ports in a sequence, each from its own slice.
pub const SLICES: usize = 8;
/// Number of ports in a slice.
pub const SLICE: u16 = 1024;
/// Number of ports in the knock range.
const WIDTH: u16 = 8 * SLICE;
/// Length of a time step in milliseconds.
const STEP: u64 = 30_000;

/// 8 consecutive slices of 1,024 ports each, starting at `low` (1 to 57,344).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnockRange {
    low: u16,
}

/// Error: a knock range cannot start at this port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidKnockRange;

/// A time step: seconds since the Unix epoch / 30, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeStep(u64);

impl KnockRange {
    /// The greatest valid `low`: the last port is then 65,535.
    pub const LOW_MAX: u16 = u16::MAX - (WIDTH - 1);
    /// The default, 20480 to 28671.
    pub const USUAL: Self = Self { low: 20_480 };

    /// The first port.
    #[must_use]
    pub const fn low(self) -> u16 {
        self.low
    }

    /// The last port.
    #[must_use]
    pub const fn high(self) -> u16 {
        self.low.saturating_add(WIDTH - 1)
    }

    /// Whether the port lies in the knock range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.low <= port && port <= self.high()
    }

    /// The port in a slice (0 to 7) that `number`, modulo 1,024, selects.
    #[must_use]
    pub fn port(self, slice: usize, number: u16) -> u16 {
        let slice = u16::try_from(slice).unwrap_or(u16::MAX).min(7);
        self.low.saturating_add(slice.saturating_mul(SLICE)).saturating_add(number % SLICE)
    }

    /// The slice (0 to 7) that the port lies in, or `None` outside the knock range.
    #[must_use]
    pub fn slice(self, port: u16) -> Option<usize> {
        let offset = port.checked_sub(self.low).filter(|&offset| offset < WIDTH)?;
        Some(usize::from(offset / SLICE))
    }
}

impl TryFrom<u16> for KnockRange {
    type Error = InvalidKnockRange;

    fn try_from(low: u16) -> Result<Self, InvalidKnockRange> {
        if (1..=Self::LOW_MAX).contains(&low) { Ok(Self { low }) } else { Err(InvalidKnockRange) }
    }
}

impl std::fmt::Display for KnockRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.low, self.high())
    }
}

impl std::fmt::Display for InvalidKnockRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a knock range starts at a port from 1 to {}", KnockRange::LOW_MAX)
    }
}

impl std::error::Error for InvalidKnockRange {}

impl TimeStep {
    /// The time step that contains `time`.
    #[must_use]
    pub const fn of(time: Timestamp) -> Self {
        Self(time.as_millis() / STEP)
    }

    /// The time step with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number, as the MACs cover it.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The time at which it begins.
    #[must_use]
    pub const fn begin(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(STEP))
    }

    /// The following time step.
    #[must_use]
    pub const fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The preceding time step.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Whether a sequence of this time step is valid during the time step `now` of the server.
    #[must_use]
    pub const fn is_valid_at(self, now: Self) -> bool {
        self.0.abs_diff(now.0) <= 1
    }

    /// The time on the server's clock at which a sequence of this time step becomes invalid.
    #[must_use]
    pub const fn valid_until(self) -> Timestamp {
        self.after().after().begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_knock_range_is_in_exactly_one_slice_and_no_other_port_is() {
        for low in [1, 20_480, KnockRange::LOW_MAX] {
            let knock_range = KnockRange::try_from(low).unwrap();
            for port in 0..=u16::MAX {
                let slice = knock_range.slice(port);
                assert_eq!(slice.is_some(), knock_range.contains(port), "{port}");
                if let Some(slice) = slice {
                    assert_eq!(knock_range.port(slice, (port - low) % SLICE), port);
                }
            }
        }
        assert_eq!(KnockRange::USUAL.to_string(), "20480-28671");
    }

    #[test]
    fn a_knock_range_that_would_not_fit_is_refused() {
        for low in [0, 57_345, u16::MAX] {
            assert_eq!(KnockRange::try_from(low), Err(InvalidKnockRange), "{low}");
        }
        assert_eq!(KnockRange::try_from(57_344).unwrap().high(), u16::MAX);
        assert_eq!(InvalidKnockRange.to_string(), "a knock range starts at a port from 1 to 57344");
    }

    #[test]
    fn a_time_step_is_valid_in_the_preceding_the_same_and_the_following_one() {
        let step = TimeStep::of(Timestamp::from_millis(1_795_331_877_123));
        assert_eq!(step, TimeStep::new(59_844_395));
        for (now, good) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            assert_eq!(
                step.is_valid_at(TimeStep::new(step.number().saturating_add_signed(now))),
                good,
                "{now}"
            );
        }
        assert_eq!(TimeStep::of(step.valid_until()), TimeStep::new(step.number() + 2));
        assert_eq!(TimeStep::new(u64::MAX).begin(), Timestamp::from_millis(u64::MAX));
    }
}
