//! Which failures of renewals are worth a line on a terminal that the command uses: those that leave the port closed.
//! Pure.

use std::time::Duration;

use super::schedule::{FailureKind, LONGEST_PAUSE};
use spa_knock_core::knock::Steady;

/// How long the port may be closed without a message: most changes of the network need less time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A series of failed renewals.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// The latest failure, and when to report it; none after a success.
    failure: Option<(FailureKind, String, Steady)>,
    /// Whether a failure has been reported since the last success.
    reported: bool,
}

impl Outage {
    /// A renewal failed at `now`. The port is open until `open_until`.
    pub(super) fn add(&mut self, kind: FailureKind, reason: String, now: Steady, open_until: Steady) {
        let due = match kind {
            FailureKind::Refused => now,
            FailureKind::Unreached => open_until.max(now).plus(PATIENCE),
        };
        // Later failures do not delay the report.
        let due = self.failure.take().map_or(due, |(_, _, before)| before.min(due));
        self.failure = Some((kind, reason, due));
    }

    /// When there is something to report, if nothing changes.
    pub(super) fn deadline(&self) -> Option<Steady> {
        self.failure.as_ref().filter(|_| !self.reported).map(|&(_, _, due)| due)
    }

    /// The report that is due at `now`: one in each series of failures.
    pub(super) fn take_report(&mut self, now: Steady, open_until: Steady) -> Option<String> {
        let (kind, reason, due) = self.failure.as_ref()?;
        if self.reported || now < *due {
            return None;
        }
        self.reported = true;
        let left = open_until.since(now).as_millis().div_ceil(1_000);
        let state = match u64::try_from(left).unwrap_or(u64::MAX) {
            0 => "the port is closed for new connections".to_owned(),
            left => format!("the port closes for new connections in {}", duration(Duration::from_secs(left))),
        };
        let again = match kind {
            FailureKind::Refused => format!("trying again every {}", duration(LONGEST_PAUSE)),
            FailureKind::Unreached => "trying again".to_owned(),
        };
        Some(format!("{reason}; {state}; {again}"))
    }

    /// A renewal succeeded. Returns whether that is worth a line, because a failure was reported.
    pub(super) fn end(&mut self) -> bool {
        std::mem::take(self).reported
    }
}

fn duration(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn a_failure_is_reported_once_when_the_port_has_been_closed_for_5_seconds() {
        let mut outage = Outage::default();
        assert_eq!(outage.deadline(), None);
        outage.add(FailureKind::Unreached, "no reply".to_owned(), at(20), at(30));
        assert_eq!((outage.deadline(), outage.take_report(at(34), at(30))), (Some(at(35)), None));
        outage.add(FailureKind::Unreached, "no route".to_owned(), at(34), at(30));
        let report = outage.take_report(at(35), at(30)).unwrap();
        assert_eq!(report, "no route; the port is closed for new connections; trying again");
        outage.add(FailureKind::Unreached, "no reply".to_owned(), at(40), at(30));
        assert_eq!((outage.deadline(), outage.take_report(at(60), at(30))), (None, None));
        assert!(outage.end());
        assert!(!outage.end());
    }

    #[test]
    fn a_short_failure_is_not_reported_and_neither_is_its_end() {
        let mut outage = Outage::default();
        outage.add(FailureKind::Unreached, "no reply".to_owned(), at(20), at(30));
        assert_eq!(outage.take_report(at(29), at(30)), None);
        assert!(!outage.end());
        assert_eq!(outage.take_report(at(99), at(30)), None);
    }

    #[test]
    fn a_refusal_is_reported_immediately_with_the_time_that_is_left() {
        let mut outage = Outage::default();
        outage.add(FailureKind::Refused, "open-ssh refused".to_owned(), at(20), at(95));
        assert_eq!(
            outage.take_report(at(20), at(95)).unwrap(),
            "open-ssh refused; the port closes for new connections in 1m 15s; trying again every 30s"
        );
    }
}
