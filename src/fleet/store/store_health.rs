//! What is known about the store, and about the members: written by all threads, reported to the keeper.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fleet::ipc::{EndpointState, MemberState, StoreReport};
use crate::os::clock;
use spa_knock_core::knock::{Steady, Timestamp};
use spa_knock_fleet::MemberName;
use spa_knock_fleet::client::{EndpointReport, StoreClient, StoreError, StoreFault};
use spa_knock_fleet::floor::{ClockOffset, MemberClock, median};
use spa_knock_fleet::members::Members;

/// Shared by the threads.
pub(super) struct StoreHealth {
    own: MemberName,
    state: Mutex<HealthState>,
}

struct HealthState {
    last_answer: Option<Steady>,
    /// When the mirror last knew all changes.
    last_watched: Option<Steady>,
    went_back: Option<String>,
    endpoints: Vec<EndpointState>,
    is_out_of_space: bool,
    members: Members,
    own_clock: Option<ClockOffset>,
    /// When the floor last changed, or when this process was started.
    floor_changed: Steady,
}

impl StoreHealth {
    /// Nothing is known yet.
    pub(super) fn new(own: MemberName, now: Steady) -> Self {
        let state = HealthState {
            last_answer: None,
            last_watched: None,
            went_back: None,
            endpoints: Vec::new(),
            is_out_of_space: false,
            members: Members::default(),
            own_clock: None,
            floor_changed: now,
        };
        Self { own, state: Mutex::new(state) }
    }

    /// Records that the store had answered at this time.
    pub(super) fn record_answer(&self, at: Steady) {
        let mut state = self.state();
        state.last_answer = state.last_answer.max(Some(at));
    }

    /// Records that all changes up to this time are known.
    pub(super) fn record_watched(&self, at: Steady) {
        self.record_answer(at);
        let mut state = self.state();
        state.last_watched = state.last_watched.max(Some(at));
    }

    /// Records the outcome of a request.
    pub(super) fn record<T>(&self, outcome: &Result<T, StoreError>) {
        match outcome {
            Ok(_) => self.record_answer(clock::steady()),
            Err(error) => self.record_fault(error.fault()),
        }
    }

    /// Records why a request failed.
    pub(super) fn record_fault(&self, fault: &StoreFault) {
        if let StoreFault::WentBack(why) = fault {
            self.state().went_back = Some(why.to_string());
        }
    }

    /// Records the state of the endpoints.
    pub(super) fn record_endpoints(&self, reports: &[EndpointReport]) {
        let states: Vec<_> = reports
            .iter()
            .map(|report| EndpointState { url: report.endpoint.clone(), problem: problem(report) })
            .collect();
        for report in reports {
            self.record(&report.quorum.as_ref().map_err(Clone::clone));
        }
        let mut state = self.state();
        for new in &states {
            let old = state.endpoints.iter().find(|old| old.url == new.url);
            match (old.and_then(|old| old.problem.as_ref()), &new.problem) {
                (None, Some(problem)) => log::warn!("store {}: {problem}", new.url),
                (Some(_), None) => log::info!("store {}: answers again", new.url),
                _ => {}
            }
        }
        state.endpoints = states;
        state.is_out_of_space = reports.iter().any(EndpointReport::is_out_of_space);
    }

    /// Records that the floor has changed.
    pub(super) fn record_floor_change(&self, now: Steady) {
        self.state().floor_changed = now;
    }

    /// How long ago the floor last changed.
    pub(super) fn since_floor_change(&self, now: Steady) -> Duration {
        now.since(self.state().floor_changed)
    }

    /// Records how far the own clock is off, if that is too much. Logged when it changes.
    pub(super) fn record_own_clock(&self, offset: Option<ClockOffset>) {
        let before = std::mem::replace(&mut self.state().own_clock, offset);
        match (before, offset) {
            (None, Some(offset)) => {
                let (seconds, direction) = match offset {
                    ClockOffset::Ahead(by) => (by.as_secs_f32(), "ahead of"),
                    ClockOffset::Behind(by) => (by.as_secs_f32(), "behind"),
                };
                log::warn!(
                    "clock: {seconds:.1} s {direction} the median of the fleet; this member does not raise the floor\n\
                     hint: synchronize the clocks of the members, for example with chrony"
                );
            }
            (Some(_), None) => log::info!("clock: agrees with the fleet again"),
            _ => {}
        }
    }

    /// Changes what is known of the members.
    pub(super) fn change_members<R>(&self, change: impl FnOnce(&mut Members) -> R) -> R {
        change(&mut self.state().members)
    }

    /// The clocks of all live members, now.
    pub(super) fn clocks(&self, wall: Timestamp, now: Steady) -> Vec<MemberClock> {
        self.state().members.clocks(&self.own, wall, now)
    }

    /// The report for the keeper.
    pub(super) fn report(&self, client: &StoreClient, now: Steady) -> StoreReport {
        let mark = client.mark();
        let state = self.state();
        let clocks = state.members.clocks(&self.own, clock::wall(), now);
        let median = median(&clocks).unwrap_or_default();
        let members = state.members.iter().zip(&clocks).map(|((name, member), clock)| MemberState {
            name: name.to_string(),
            version: member.record.version.clone(),
            address: member.record.address.clone(),
            offset_ms: milliseconds(ClockOffset::between(clock.clock, median)),
            policy_revision: member.record.policy_revision,
            policy_digest: member.record.policy_digest.clone(),
        });
        StoreReport {
            mark: mark.map(|mark| mark.to_string()),
            went_back: state.went_back.clone(),
            silent_ms: state.last_answer.map(|last| whole_milliseconds(now.since(last))),
            watch_silent_ms: state.last_watched.map(|last| whole_milliseconds(now.since(last))),
            endpoints: state.endpoints.clone(),
            out_of_space: state.is_out_of_space,
            members: members.collect(),
            own_clock_off_ms: state.own_clock.map(milliseconds),
            floor_ms: mark.map_or(0, |mark| mark.floor().as_millis()),
        }
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an endpoint does not answer as it must.
fn problem(report: &EndpointReport) -> Option<String> {
    let errors = [report.version.as_ref().err(), report.status.as_ref().err(), report.quorum.as_ref().err()];
    errors.into_iter().flatten().next().map(|error| text(error.fault()))
}

/// The reason and what can be done about it.
pub(super) fn text(fault: &StoreFault) -> String {
    match fault.hint() {
        Some(hint) => format!("{fault}\nhint: {hint}"),
        None => fault.to_string(),
    }
}

fn milliseconds(offset: ClockOffset) -> i64 {
    let distance = i64::try_from(offset.distance().as_millis()).unwrap_or(i64::MAX);
    match offset {
        ClockOffset::Ahead(_) => distance,
        ClockOffset::Behind(_) => distance.saturating_neg(),
    }
}

fn whole_milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_fleet::members::MemberRecord;

    fn health(now: Steady) -> (StoreHealth, StoreClient) {
        (StoreHealth::new("a".parse().unwrap(), now), StoreClient::new(Vec::new(), None, None, None))
    }

    #[test]
    fn silence_is_the_time_since_the_last_answer_whichever_thread_got_it() {
        let now = clock::steady();
        let (health, client) = health(now);
        let silence = |after_ms| health.report(&client, now.plus(Duration::from_millis(after_ms))).silent_ms;
        assert_eq!(silence(0), None);
        health.record_answer(now.plus(Duration::from_millis(500)));
        health.record_answer(now.plus(Duration::from_millis(200)));
        assert_eq!(silence(700), Some(200));
        health.record_fault(&StoreFault::Timeout(300));
        assert_eq!(silence(900), Some(400));
    }

    #[test]
    fn members_are_reported_with_the_distance_of_their_clocks_from_the_median() {
        let now = clock::steady();
        let (health, client) = health(now);
        let wall = clock::wall();
        let offsets = [("a", 5_000_i64), ("b", -4_000), ("c", 0), ("d", 9_000)];
        for (name, offset) in offsets {
            let record = MemberRecord {
                version: "0.1.0".to_owned(),
                address: "10.0.0.1:1".to_owned(),
                clock: wall.as_millis().checked_add_signed(offset).unwrap(),
                policy_revision: 3,
                policy_digest: "abcd".to_owned(),
            };
            let name: MemberName = name.parse().unwrap();
            health.change_members(|members| members.apply(name, Some(&record.to_value()), now)).unwrap();
        }
        let report = health.report(&client, now);
        let reported: Vec<_> =
            report.members.iter().map(|member| (member.name.as_str(), member.offset_ms)).collect();
        // The own clock is read, not taken from the record; it may have gone on a little, and is then the median.
        let expected = [("a", 0), ("b", -4_000), ("c", 0), ("d", 9_000)];
        for ((name, offset), (expected_name, expected)) in reported.iter().zip(expected) {
            assert_eq!(*name, expected_name);
            assert!(offset.abs_diff(expected) < 1_000, "{name}: {offset}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_reported_until_it_is_not() {
        let now = clock::steady();
        let (health, client) = health(now);
        health.record_own_clock(Some(ClockOffset::Behind(Duration::from_millis(4_100))));
        assert_eq!(health.report(&client, now).own_clock_off_ms, Some(-4_100));
        health.record_own_clock(Some(ClockOffset::Ahead(Duration::from_millis(90_000))));
        assert_eq!(health.report(&client, now).own_clock_off_ms, Some(90_000));
        health.record_own_clock(None);
        assert_eq!(health.report(&client, now).own_clock_off_ms, None);
    }
}
