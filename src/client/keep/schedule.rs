//! When the next knock is due: a renewal, a retry, or a knock from a new address. Pure: uses no clock, no socket and no
//! thread.

use std::time::Duration;

use crate::client::failure::ExitCause;
use spa_knock_core::knock::Steady;

/// Shortest time from the start of one knock to the start of the next, whatever happens.
const GAP: Duration = Duration::from_secs(1);
/// A renewal starts this long before the end of the grant at the latest: a server that loses three datagrams still
/// gets the fourth in time.
const MARGIN: Duration = Duration::from_secs(1);
/// Longest pause before a retry, and the pause after a refusal.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the address can change without a delay of the next knock...
const CHANGES: u32 = 4;
/// ...and how often afterwards: 8 knocks in the first minute, then 4 per minute. `client add` allows 60.
const CHANGE_INTERVAL: Duration = Duration::from_secs(15);

/// The schedule of the knocks that follow the first one.
#[derive(Debug)]
pub(super) struct Schedule {
    /// `--every`.
    every: Option<Duration>,
    /// When the latest knock started.
    start: Steady,
    /// When to knock if nothing changes; none while the result of a knock is unknown.
    next: Option<Steady>,
    /// When to knock because the address has changed.
    change: Option<Steady>,
    /// When [`CHANGES`] changes in a row are allowed again.
    rested: Steady,
    /// Failures since the last success or change.
    failures: u32,
    /// Until when the port is open for the current address, as far as known.
    open_until: Steady,
}

/// Why a knock is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The own address has changed.
    Change,
    /// The grant ends soon.
    Renewal,
    /// The last knock failed.
    Retry,
}

/// Why a knock failed, as far as the schedule depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server refused, or no SSH key signed the knock. Neither changes soon; a refusal can count for the server's
    /// limits, and a signature may need a person.
    Refused,
    /// No reply, no route, or no address for the name.
    Unreached,
}

impl FailureKind {
    /// The kind of a failure with this cause.
    pub(super) const fn of(cause: ExitCause) -> Self {
        match cause {
            ExitCause::Refused | ExitCause::Files => Self::Refused,
            _ => Self::Unreached,
        }
    }
}

impl Schedule {
    /// The schedule for a server that the first knock, at `start`, has not opened by `now`.
    pub(super) fn after_failure(
        every: Option<Duration>,
        start: Steady,
        kind: FailureKind,
        now: Steady,
    ) -> Self {
        let mut schedule = Self::new(every, start, None);
        schedule.open_until = start;
        schedule.fail(kind, now);
        schedule
    }

    /// The schedule after a first knock that started at `start` and got a grant of this length, if that is known.
    pub(super) fn new(every: Option<Duration>, start: Steady, grant: Option<Duration>) -> Self {
        let mut schedule =
            Self { every, start, next: None, change: None, rested: start, failures: 0, open_until: start };
        schedule.succeed(grant);
        schedule
    }

    /// When the next knock is due; none while a result is awaited.
    pub(super) fn deadline(&self) -> Option<Steady> {
        let due = match (self.next, self.change) {
            (Some(next), Some(change)) => next.min(change),
            (next, change) => next.or(change)?,
        };
        Some(due.max(self.start.plus(GAP)))
    }

    /// Until when the port is open for the current address, as far as known.
    pub(super) const fn open_until(&self) -> Steady {
        self.open_until
    }

    /// A knock starts at `now`. An earlier one whose result is unknown is superseded.
    pub(super) fn start(&mut self, now: Steady) -> Occasion {
        let was_due = self.next.is_some_and(|next| next <= now);
        let occasion = match (self.change.take(), self.failures) {
            (Some(_), _) => Occasion::Change,
            (None, 0) => Occasion::Renewal,
            (None, _) => Occasion::Retry,
        };
        if occasion == Occasion::Change {
            self.failures = 0;
            if !was_due {
                self.rested = self.rested.max(now).plus(CHANGE_INTERVAL);
            }
        }
        self.start = now;
        self.next = None;
        occasion
    }

    /// The latest knock succeeded, and opened the port for this time, if that is known.
    pub(super) fn succeed(&mut self, grant: Option<Duration>) {
        let renewal = self.every.or(grant.map(renewal)).unwrap_or(LONGEST_PAUSE);
        self.failures = 0;
        self.next = Some(self.start.plus(renewal));
        // Without a reply, `--every` is the only hint how long the port is open.
        self.open_until = self.start.plus(grant.or(self.every).unwrap_or_default());
    }

    /// The latest knock failed at `now`. Returns the pause before the next one.
    pub(super) fn fail(&mut self, kind: FailureKind, now: Steady) -> Duration {
        let pause = match kind {
            FailureKind::Refused => LONGEST_PAUSE,
            FailureKind::Unreached => {
                Duration::from_secs(2_u64.saturating_pow(self.failures)).min(LONGEST_PAUSE)
            }
        };
        self.failures = self.failures.saturating_add(1);
        self.next = Some(now.plus(pause));
        pause
    }

    /// The own address is another one since `now`, or the machine was asleep: what is open is of no use.
    pub(super) fn change_address(&mut self, now: Steady) {
        self.open_until = self.open_until.min(now);
        if self.change.is_none() {
            let allowed = CHANGE_INTERVAL.saturating_mul(CHANGES.saturating_sub(1));
            let excess = self.rested.since(now).saturating_sub(allowed);
            self.change = Some(now.plus(excess));
        }
    }
}

/// How long after its start a grant is renewed: when two thirds are over, early enough before its end.
pub(super) fn renewal(grant: Duration) -> Duration {
    let two_thirds = grant.saturating_mul(2).checked_div(3).unwrap_or(grant);
    two_thirds.min(grant.saturating_sub(MARGIN)).max(GAP)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(ms: u64) -> Steady {
        Steady::from_duration(Duration::from_millis(ms))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_grant_is_renewed_after_two_thirds_and_a_second_before_its_end() {
        for (grant, after) in
            [(1, 1_000), (2, 1_000), (3, 2_000), (4, 2_666), (30, 20_000), (3_600, 2_400_000)]
        {
            assert_eq!(renewal(seconds(grant)).as_millis(), after, "{grant}");
        }
        let schedule = Schedule::new(None, at(500), Some(seconds(30)));
        assert_eq!((schedule.deadline(), schedule.open_until()), (Some(at(20_500)), at(30_500)));
    }

    #[test]
    fn the_interval_of_the_command_line_takes_precedence() {
        for (grant, open_until) in [(Some(seconds(30)), 30_000), (None, 7_000)] {
            let schedule = Schedule::new(Some(seconds(7)), at(0), grant);
            assert_eq!((schedule.deadline(), schedule.open_until()), (Some(at(7_000)), at(open_until)));
        }
    }

    #[test]
    fn retries_follow_after_pauses_that_double_up_to_30_seconds_until_one_succeeds() {
        let mut schedule = Schedule::new(None, at(0), Some(seconds(30)));
        let mut now = at(20_000);
        assert_eq!(schedule.start(now), Occasion::Renewal);
        assert_eq!(schedule.deadline(), None, "the result decides");
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            now = now.plus(seconds(3));
            assert_eq!(schedule.fail(FailureKind::Unreached, now), seconds(pause));
            now = now.plus(seconds(pause));
            assert_eq!(schedule.deadline(), Some(now));
            assert_eq!(schedule.start(now), Occasion::Retry);
        }
        schedule.succeed(Some(seconds(30)));
        now = now.plus(seconds(20));
        assert_eq!(schedule.deadline(), Some(now));
        assert_eq!(schedule.start(now), Occasion::Renewal);
        assert_eq!(schedule.fail(FailureKind::Unreached, now), seconds(1), "the pauses begin again");
    }

    #[test]
    fn a_refusal_is_retried_after_30_seconds() {
        let mut schedule = Schedule::new(None, at(0), Some(seconds(30)));
        schedule.start(at(20_000));
        assert_eq!(schedule.fail(FailureKind::Refused, at(20_100)), seconds(30));
        assert_eq!((schedule.deadline(), schedule.open_until()), (Some(at(50_100)), at(30_000)));
    }

    #[test]
    fn a_change_of_the_address_leads_to_a_knock_also_while_a_result_is_awaited_but_not_within_a_second() {
        let mut schedule = Schedule::new(None, at(0), Some(seconds(30)));
        schedule.change_address(at(300));
        assert_eq!((schedule.deadline(), schedule.open_until()), (Some(at(1_000)), at(300)));
        assert_eq!(schedule.start(at(1_000)), Occasion::Change);
        schedule.change_address(at(5_000));
        assert_eq!(schedule.deadline(), Some(at(5_000)));
        schedule.start(at(5_000));
        schedule.succeed(Some(seconds(30)));
        assert_eq!(schedule.open_until(), at(35_000));
        for _ in 0..6 {
            schedule.fail(FailureKind::Unreached, at(6_000));
        }
        schedule.change_address(at(7_000));
        schedule.start(at(7_000));
        assert_eq!(
            schedule.fail(FailureKind::Unreached, at(8_000)),
            seconds(1),
            "a new network, a new attempt"
        );
    }

    #[test]
    fn the_fifth_change_in_a_row_waits_for_its_turn() {
        let mut schedule = Schedule::new(None, at(0), Some(seconds(300)));
        let mut starts = Vec::new();
        for now in (10..=75).map(|second| at(second * 1_000)) {
            schedule.change_address(now);
            if schedule.deadline().is_some_and(|due| due <= now) {
                schedule.start(now);
                schedule.succeed(Some(seconds(300)));
                starts.push(now);
            }
        }
        let expected = [10, 11, 12, 13, 25, 40, 55, 70];
        assert_eq!(starts, expected.map(|second| at(second * 1_000)));
    }

    /// What happens in the simulation, besides the passing of time.
    #[derive(Debug, Clone, Copy)]
    enum Occurrence {
        Success,
        Failure(FailureKind),
        Change,
    }

    fn occurrence() -> impl Strategy<Value = (u64, Occurrence)> {
        let kind = prop_oneof![
            4 => Just(Occurrence::Success),
            2 => Just(Occurrence::Failure(FailureKind::Unreached)),
            1 => Just(Occurrence::Failure(FailureKind::Refused)),
            4 => Just(Occurrence::Change),
        ];
        (0_u64..3_000, kind)
    }

    proptest! {
        #[test]
        fn whatever_happens_knocks_are_a_second_apart_and_changes_cost_few(
            grant in 2_u64..60,
            occurrences in proptest::collection::vec(occurrence(), 1..100),
        ) {
            let grant = Some(seconds(grant));
            let mut schedule = Schedule::new(None, at(0), grant);
            let (mut now, mut last) = (0_u64, 0_u64);
            let mut extra: Vec<u64> = Vec::new();
            // Whether a result is awaited, and whether the next renewal can be on time.
            let (mut awaited, mut on_time) = (false, true);
            for (pause, occurrence) in occurrences {
                for _ in 0..pause {
                    now += 1;
                    if schedule.deadline().is_none_or(|due| due > at(now)) {
                        continue;
                    }
                    let was_due = schedule.next.is_some_and(|next| next <= at(now));
                    let open_until = schedule.open_until();
                    let occasion = schedule.start(at(now));
                    prop_assert!(now - last >= 1_000, "a second has not passed");
                    prop_assert!(occasion != Occasion::Renewal || !on_time || at(now).plus(MARGIN) <= open_until);
                    if occasion == Occasion::Change && !was_due {
                        extra.push(now);
                    }
                    last = now;
                    awaited = true;
                }
                match occurrence {
                    Occurrence::Success if awaited => {
                        schedule.succeed(grant);
                        // Some replies arrive when the next renewal is due already; it then starts in the next millisecond.
                        on_time = schedule.deadline().is_some_and(|due| due > at(now));
                        awaited = false;
                    }
                    Occurrence::Failure(kind) if awaited => {
                        schedule.fail(kind, at(now));
                        awaited = false;
                    }
                    Occurrence::Change => {
                        schedule.change_address(at(now));
                        on_time = false;
                    }
                    Occurrence::Success | Occurrence::Failure(_) => {}
                }
                prop_assert!(awaited || schedule.deadline().is_some(), "nothing is due any more");
            }
            for (index, first) in extra.iter().enumerate() {
                let in_minute = extra[index..].iter().filter(|&at| at - first < 60_000).count();
                prop_assert!(in_minute <= 8, "{in_minute} knocks in a minute because of changes");
            }
        }
    }
}
