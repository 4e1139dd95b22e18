//! When the next knock is due: a renewal, a retry, or a knock from a new address. Pure: uses no clock, no socket and no
//! thread.

use std::time::Duration;

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

/// Why a knock failed, as far as the schedule depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server refused. It rarely changes its mind soon, and a refusal can count for its limits.
    Refused,
    /// No reply, no route, or no address for the name.
    Unreached,
}

impl Schedule {
    /// The schedule after a first knock that started at `start` and got a grant of this length, if that is known.
    pub(super) fn new(every: Option<Duration>, start: Steady, grant: Option<Duration>) -> Self {
        let mut schedule = Self {
            every,
            start,
            next: None,
            change: None,
            rested: start,
            failures: 0,
            open_until: start,
        };
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
    pub(super) fn start(&mut self, now: Steady) {
        let is_renewal = self.next.is_some_and(|next| next <= now);
        if self.change.take().is_some() {
            self.failures = 0;
            if !is_renewal {
                self.rested = self.rested.max(now).plus(CHANGE_INTERVAL);
            }
        }
        self.start = now;
        self.next = None;
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
            FailureKind::Unreached => Duration::from_secs(2_u64.saturating_pow(self.failures)).min(LONGEST_PAUSE),
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
