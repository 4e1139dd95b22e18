//! Limits how many stages and timeouts are reported per second, so that a flood of first knocks does not fill the log.

use spa_knock_core::knock::Timestamp;

/// Enough for any number of real users. Events beyond it are only counted.
const A_SECOND: u32 = 200;

/// The events of the current second.
#[derive(Debug, Default)]
pub(in crate::legacy::watcher) struct LogLimiter {
    second: u64,
    reported: u32,
    omitted: u32,
}

impl LogLimiter {
    /// Whether one more event may be reported. If not, counts it.
    pub(in crate::legacy::watcher) fn admits(&mut self, now: Timestamp) -> bool {
        let second = second(now);
        if second != self.second && self.omitted == 0 {
            (self.second, self.reported) = (second, 0);
        }
        if self.reported < A_SECOND {
            self.reported = self.reported.saturating_add(1);
            return true;
        }
        self.omitted = self.omitted.saturating_add(1);
        false
    }

    /// How many events were not reported in a past second. Returned only once.
    pub(in crate::legacy::watcher) fn suppressed(&mut self, now: Timestamp) -> Option<u32> {
        let second = second(now);
        if second == self.second || self.omitted == 0 {
            return None;
        }
        (self.second, self.reported) = (second, 0);
        Some(std::mem::take(&mut self.omitted))
    }

    /// When `suppressed` must be called.
    pub(in crate::legacy::watcher) fn deadline(&self) -> Option<Timestamp> {
        let end = self.second.saturating_add(1).saturating_mul(1_000);
        (self.omitted > 0).then_some(Timestamp::from_millis(end))
    }
}

const fn second(time: Timestamp) -> u64 {
    time.as_millis() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_events_a_second_are_reported_and_the_rest_are_counted() {
        let at = |ms: u64| Timestamp::from_millis(1_795_000_000_000 + ms);
        let mut quiet = LogLimiter::default();
        assert_eq!((0..1_000).filter(|_| quiet.admits(at(5))).count(), 200);
        assert_eq!((quiet.suppressed(at(999)), quiet.deadline()), (None, Some(at(1_000))));
        assert_eq!((quiet.suppressed(at(1_000)), quiet.suppressed(at(1_000))), (Some(800), None));
        assert_eq!(quiet.deadline(), None);
        assert_eq!((0..1_000).filter(|_| quiet.admits(at(1_001))).count(), 200);
        assert_eq!(quiet.suppressed(at(5_000)), Some(800));
        assert!(quiet.admits(at(5_000)));
    }
}
