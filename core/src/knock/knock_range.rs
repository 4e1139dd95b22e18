//! The ports that a sequence can touch, and the spans of time that one is good in (`docs/protocol.md`, section 7).

use super::Timestamp;

/// Ports of a sequence, each in a slice of its own.
pub const SLICES: usize = 8;
/// Ports of a slice.
pub const SLICE: u16 = 1024;
/// Ports of the knock range.
const WIDTH: u16 = 8 * SLICE;
/// Milliseconds of a step.
const STEP: u64 = 30_000;

/// 8 slices of 1,024 ports that follow each other, from `low` (1 to 57,344) on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnockRange {
    low: u16,
}

/// A port that no knock range can begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidKnockRange;

/// Half a minute: seconds since the Unix epoch / 30, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeStep(u64);

impl KnockRange {
    /// The greatest `low`: the last port is 65,535 then.
    pub const LOW_MAX: u16 = u16::MAX - (WIDTH - 1);
    /// Where nothing else is said.
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

    /// Whether a port is one of the knock range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.low <= port && port <= self.high()
    }

    /// The port of a slice (0 to 7) that `number` stands for, modulo 1,024.
    #[must_use]
    pub fn port(self, slice: usize, number: u16) -> u16 {
        let slice = u16::try_from(slice).unwrap_or(u16::MAX).min(7);
        self.low.saturating_add(slice.saturating_mul(SLICE)).saturating_add(number % SLICE)
    }

    /// The slice (0 to 7) of a port of the knock range.
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
        write!(f, "a knock range begins at a port from 1 to {}", KnockRange::LOW_MAX)
    }
}

impl std::error::Error for InvalidKnockRange {}

impl TimeStep {
    /// The step that a time falls in.
    #[must_use]
    pub const fn of(time: Timestamp) -> Self {
        Self(time.as_millis() / STEP)
    }

    /// The step of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number, as it is signed.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// When it begins.
    #[must_use]
    pub const fn begin(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(STEP))
    }

    /// The one after it.
    #[must_use]
    pub const fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Whether a sequence of this step is good when it is `now` there.
    #[must_use]
    pub const fn is_good_at(self, now: Self) -> bool {
        self.0.abs_diff(now.0) <= 1
    }

    /// When a sequence of this step is good no more, by the clock of who is knocked at.
    #[must_use]
    pub const fn good_until(self) -> Timestamp {
        self.after().after().begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_band_is_in_one_slice_and_no_other_port_is() {
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
    fn a_band_that_would_not_fit_is_refused() {
        for low in [0, 57_345, u16::MAX] {
            assert_eq!(KnockRange::try_from(low), Err(InvalidKnockRange), "{low}");
        }
        assert_eq!(KnockRange::try_from(57_344).unwrap().high(), u16::MAX);
    }

    #[test]
    fn a_step_is_good_in_the_one_before_itself_and_the_one_after() {
        let step = TimeStep::of(Timestamp::from_millis(1_795_331_877_123));
        assert_eq!(step, TimeStep::new(59_844_395));
        for (now, good) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            assert_eq!(
                step.is_good_at(TimeStep::new(step.number().saturating_add_signed(now))),
                good,
                "{now}"
            );
        }
        assert_eq!(TimeStep::of(step.good_until()), TimeStep::new(step.number() + 2));
        assert_eq!(TimeStep::new(u64::MAX).begin(), Timestamp::from_millis(u64::MAX));
    }
}
