//! Decides whether frames are read as they arrive, or in batches: during a flood, waking up for each frame costs
//! several times more than judging it.

use spa_knock_core::knock::Steady;
use std::time::Duration;

/// The interval in which frames are counted.
const INTERVAL: Duration = Duration::from_millis(10);
/// Frames per interval up to which they are read as they arrive: 6,400 per second, which only a flood exceeds.
const FRAMES_MAX: usize = 64;

/// The rate of recent frames.
#[derive(Debug, Default)]
pub(crate) struct FloodDetector {
    /// When the current interval began; none before the first.
    begin: Option<Steady>,
    frames: usize,
    /// Whether the previous interval was a flood.
    flooded: bool,
}

impl FloodDetector {
    /// Counts `frames` more. Returns whether there is a flood.
    pub(crate) fn record(&mut self, frames: usize, now: Steady) -> bool {
        let elapsed = self.begin.map(|begin| now.since(begin));
        if elapsed.is_none_or(|elapsed| elapsed >= INTERVAL) {
            // Counts older than one interval are ignored.
            let is_recent = elapsed.is_some_and(|elapsed| elapsed < INTERVAL.saturating_mul(2));
            *self = Self { begin: Some(now), frames: 0, flooded: is_recent && self.frames > FRAMES_MAX };
        }
        self.frames = self.frames.saturating_add(frames);
        self.flooded || self.frames > FRAMES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(time: Duration) -> Steady {
        Steady::from_duration(time)
    }

    /// Whether frames at this interval are a flood, after 1,000 of them.
    fn is_flood(interval: Duration) -> bool {
        let mut detector = FloodDetector::default();
        (1..1_000).map(|n| detector.record(1, at(interval * n))).last().unwrap()
    }

    #[test]
    fn only_a_flood_is_detected_and_only_while_it_lasts() {
        assert!(!is_flood(Duration::from_millis(1)));
        assert!(!is_flood(Duration::from_micros(200)));
        assert!(is_flood(Duration::from_micros(100)));
        assert!(is_flood(Duration::from_micros(10)));

        let mut detector = FloodDetector::default();
        let flood = (1..=50).map(|ms| detector.record(100, at(Duration::from_millis(ms))));
        assert_eq!(flood.filter(|flooded| !flooded).count(), 0);
        assert!(!detector.record(1, at(Duration::from_secs(1))), "it is over");
    }
}
