//! Whether frames are taken as they come, or left to gather for a moment first: under a flood, waking up for each of
//! them costs several times what judging it does.

use std::time::Duration;

/// How long frames are counted together.
const BEAT: Duration = Duration::from_millis(10);
/// So many in a beat are still taken as they come: 6,400 a second, which only a flood exceeds.
const CALM: usize = 64;

/// How fast frames have come of late.
#[derive(Debug, Default)]
pub(crate) struct FloodDetector {
    begun: Duration,
    frames: usize,
    /// Whether the beat before this one was a flood.
    flooded: bool,
}

impl FloodDetector {
    /// So many more were taken by now, on the steady clock; whether it is a flood.
    pub(crate) fn took(&mut self, frames: usize, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.begun);
        if elapsed >= BEAT {
            // What lies further back than one beat says nothing.
            let flooded = self.frames > CALM && elapsed < BEAT.saturating_mul(2);
            *self = Self { begun: now, frames: 0, flooded };
        }
        self.frames = self.frames.saturating_add(frames);
        self.flooded || self.frames > CALM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether frames that come so far apart are a flood after a while.
    fn is_flood(apart: Duration) -> bool {
        let mut pace = FloodDetector::default();
        (1..1_000).map(|n| pace.took(1, apart * n)).last().unwrap()
    }

    #[test]
    fn only_a_flood_is_left_to_gather_and_no_longer_than_it_lasts() {
        assert!(!is_flood(Duration::from_millis(1)));
        assert!(!is_flood(Duration::from_micros(200)));
        assert!(is_flood(Duration::from_micros(100)));
        assert!(is_flood(Duration::from_micros(10)));

        let mut pace = FloodDetector::default();
        let flood = (1..=50).map(|ms| pace.took(100, Duration::from_millis(ms)));
        assert_eq!(flood.filter(|flooded| !flooded).count(), 0);
        assert!(!pace.took(1, Duration::from_millis(1_000)), "it is over");
    }
}
