//! Whether frames are taken as they come, or left to gather for a moment first: under a flood, waking up for each of
//! them costs several times what judging it does.

use spa_knock_core::knock::Steady;
use std::time::Duration;

/// How long frames are counted together.
const BEAT: Duration = Duration::from_millis(10);
/// So many in a beat are still taken as they come: 6,400 a second, which only a flood exceeds.
const CALM: usize = 64;

/// How fast frames have come of late.
#[derive(Debug, Default)]
pub(crate) struct FloodDetector {
    /// When this beat has begun; none before the first.
    begun: Option<Steady>,
    frames: usize,
    /// Whether the beat before this one was a flood.
    flooded: bool,
}

impl FloodDetector {
    /// So many more were taken by now; whether it is a flood.
    pub(crate) fn took(&mut self, frames: usize, now: Steady) -> bool {
        let elapsed = self.begun.map(|begun| now.since(begun));
        if elapsed.is_none_or(|elapsed| elapsed >= BEAT) {
            // What lies further back than one beat says nothing.
            let is_recent = elapsed.is_some_and(|elapsed| elapsed < BEAT.saturating_mul(2));
            *self = Self { begun: Some(now), frames: 0, flooded: is_recent && self.frames > CALM };
        }
        self.frames = self.frames.saturating_add(frames);
        self.flooded || self.frames > CALM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(time: Duration) -> Steady {
        Steady::from_duration(time)
    }

    /// Whether frames that come so far apart are a flood after a while.
    fn is_flood(apart: Duration) -> bool {
        let mut pace = FloodDetector::default();
        (1..1_000).map(|n| pace.took(1, at(apart * n))).last().unwrap()
    }

    #[test]
    fn only_a_flood_is_left_to_gather_and_no_longer_than_it_lasts() {
        assert!(!is_flood(Duration::from_millis(1)));
        assert!(!is_flood(Duration::from_micros(200)));
        assert!(is_flood(Duration::from_micros(100)));
        assert!(is_flood(Duration::from_micros(10)));

        let mut pace = FloodDetector::default();
        let flood = (1..=50).map(|ms| pace.took(100, at(Duration::from_millis(ms))));
        assert_eq!(flood.filter(|flooded| !flooded).count(), 0);
        assert!(!pace.took(1, at(Duration::from_secs(1))), "it is over");
    }
}
