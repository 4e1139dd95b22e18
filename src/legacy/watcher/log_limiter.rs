//! How many stages and timeouts are told in a second: a flood of first knocks must not fill the log.

use spa_knock_core::knock::Timestamp;

/// Enough for every honest crowd; what is beyond it is counted.
const A_SECOND: u32 = 200;

/// What has been told in this second.
#[derive(Debug, Default)]
pub(in crate::legacy::watcher) struct LogLimiter {
    second: u64,
    told: u32,
    untold: u32,
}

impl LogLimiter {
    /// Whether one more may be told; else it is counted.
    pub(in crate::legacy::watcher) fn admits(&mut self, now: Timestamp) -> bool {
        let second = second(now);
        if second != self.second && self.untold == 0 {
            (self.second, self.told) = (second, 0);
        }
        if self.told < A_SECOND {
            self.told = self.told.saturating_add(1);
            return true;
        }
        self.untold = self.untold.saturating_add(1);
        false
    }

    /// How many were not told in a second that is over; once.
    pub(in crate::legacy::watcher) fn suppressed(&mut self, now: Timestamp) -> Option<u32> {
        let second = second(now);
        if second == self.second || self.untold == 0 {
            return None;
        }
        (self.second, self.told) = (second, 0);
        Some(std::mem::take(&mut self.untold))
    }

    /// When there is something to tell.
    pub(in crate::legacy::watcher) fn deadline(&self) -> Option<Timestamp> {
        let end = self.second.saturating_add(1).saturating_mul(1_000);
        (self.untold > 0).then_some(Timestamp::from_millis(end))
    }
}

const fn second(time: Timestamp) -> u64 {
    time.as_millis() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_a_second_are_told_and_the_rest_is_counted() {
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
