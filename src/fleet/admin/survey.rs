//! What the store answers at the moment: its endpoints and the live members, as a member of the fleet sees them.

use std::collections::BTreeMap;

use super::{client_as, space};
use crate::config::EtcdSettings;
use crate::console::AdminError;
use crate::fleet::files::LoginFile;
use crate::os::clock;
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::client::{EndpointReport, Patience, StoreClient, StoreError, StoreFault};
use spa_knock_fleet::floor::{self, MemberClock};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::members::{MemberRecord, RECORD_LEASE};
use spa_knock_fleet::{MemberName, floor::ClockOffset};

/// What the store answers.
pub(crate) struct FleetSurvey {
    pub(crate) client: StoreClient,
    pub(crate) endpoints: Vec<EndpointReport>,
    /// The content, or why there is none.
    pub(crate) content: Result<FleetContent, StoreError>,
}

/// What the store has of the fleet.
pub(crate) struct FleetContent {
    pub(crate) revision: u64,
    /// When a client was last changed.
    pub(crate) policy_revision: u64,
    /// None in a store that was set up again.
    pub(crate) floor: Option<Timestamp>,
    pub(crate) clients: usize,
    pub(crate) grants: usize,
    pub(crate) members: Vec<SurveyedMember>,
}

/// A live member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SurveyedMember {
    pub(crate) name: MemberName,
    pub(crate) record: MemberRecord,
    /// How old its record is, in seconds.
    pub(crate) age: u64,
    /// How far its clock is off the median of all, to a second.
    pub(crate) offset: ClockOffset,
    /// Whether its policy is that of this server, or of the first member if this server is not live.
    pub(crate) has_same_policy: bool,
}

/// What is wrong with an endpoint, with a hint if there is one.
pub(crate) fn problem_of(report: &EndpointReport) -> Option<String> {
    let errors = [report.version.as_ref().err(), report.quorum.as_ref().err(), report.status.as_ref().err()];
    let first = errors.into_iter().flatten().next().map(ToString::to_string);
    first.or_else(|| {
        let fault = StoreFault::NoSpace;
        let hint = fault.hint().unwrap_or_default();
        report.is_out_of_space().then(|| format!("store {}: {fault}\nhint: {hint}", report.endpoint))
    })
}

/// Asks the store with the login of the member.
///
/// # Errors
/// If a file of the fleet is unusable. A store that does not answer is part of the result.
pub(crate) fn survey(settings: &EtcdSettings) -> Result<FleetSurvey, AdminError> {
    let client = client_as(settings, LoginFile::Member)?;
    let endpoints = client.inspect(&space(settings).path(&StoreKey::Floor), Patience::BACKGROUND);
    let content = read_content(&client, &space(settings), &settings.member);
    Ok(FleetSurvey { client, endpoints, content })
}

/// Reads what the store has of the fleet.
///
/// # Errors
/// If it does not answer, or rejects us.
pub(crate) fn read_content(
    client: &StoreClient,
    space: &KeySpace,
    own: &MemberName,
) -> Result<FleetContent, StoreError> {
    let (revision, found) = client.read_all(&space.watched(), Patience::BACKGROUND)?;
    let mut content = FleetContent {
        revision,
        policy_revision: 0,
        floor: None,
        clients: 0,
        grants: 0,
        members: Vec::new(),
    };
    let mut records = BTreeMap::new();
    for found in found {
        match space.parse(&found.key) {
            Some(StoreKey::Floor) => content.floor = floor::parse_value(&found.value),
            Some(StoreKey::PolicyClient(_)) => {
                content.clients = content.clients.saturating_add(1);
                content.policy_revision = content.policy_revision.max(found.mod_revision);
            }
            Some(StoreKey::PolicyRevoked(_)) => {
                content.policy_revision = content.policy_revision.max(found.mod_revision);
            }
            Some(StoreKey::Grant(_)) => content.grants = content.grants.saturating_add(1),
            Some(StoreKey::Member(name)) => {
                let Ok(record) = MemberRecord::parse(&name, &found.value) else { continue };
                // A record whose lease ends at this moment is not live any more.
                let Ok(left) = client.lease_left(found.lease, Patience::BACKGROUND) else { continue };
                records.insert(name, (record, RECORD_LEASE.saturating_sub(left)));
            }
            _ => {}
        }
    }
    content.members = members(own, records);
    Ok(content)
}

fn members(own: &MemberName, records: BTreeMap<MemberName, (MemberRecord, u64)>) -> Vec<SurveyedMember> {
    let now = |record: &MemberRecord, age: u64| {
        Timestamp::from_millis(record.clock).plus(std::time::Duration::from_secs(age))
    };
    let clocks: Vec<_> = records
        .iter()
        .map(|(name, (record, age))| MemberClock { name: name.clone(), clock: now(record, *age) })
        .collect();
    let median = floor::median(&clocks).unwrap_or_default();
    let reference = records.get(own).or_else(|| records.values().next());
    let digest = reference.map(|(record, _)| record.policy_digest.clone());
    let surveyed = |(name, (record, age)): (MemberName, (MemberRecord, u64))| SurveyedMember {
        offset: ClockOffset::between(now(&record, age), median),
        has_same_policy: digest.as_ref() == Some(&record.policy_digest),
        name,
        record,
        age,
    };
    records.into_iter().map(surveyed).collect()
}

/// The highest clock of all members, by how far each was off the median in milliseconds when the daemon of this server last
/// knew it. `now` is the clock of the member `own`; if it was not known, it counts as the one that is farthest behind.
pub(crate) fn highest_clock<'a>(
    now: Timestamp,
    own: &MemberName,
    offsets: impl Iterator<Item = (&'a str, i64)> + Clone,
) -> Timestamp {
    let all = || offsets.clone().map(|(_, offset)| offset);
    let known = offsets.clone().find(|(name, _)| *name == own.as_str()).map(|(_, offset)| offset);
    let (Some(highest), Some(own)) = (all().max(), known.or_else(|| all().min())) else { return now };
    let ahead = u64::try_from(highest.saturating_sub(own)).unwrap_or_default();
    now.plus(std::time::Duration::from_millis(ahead))
}

/// The highest clock of all members and this host, for a floor above every knock.
pub(crate) fn clocks(content: &FleetContent) -> Vec<MemberClock> {
    let now = clock::wall();
    let clock = |member: &SurveyedMember| MemberClock {
        name: member.name.clone(),
        clock: Timestamp::from_millis(member.record.clock)
            .plus(std::time::Duration::from_secs(member.age.saturating_add(1)))
            .max(now),
    };
    content.members.iter().map(clock).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(clock: u64, digest: &str) -> MemberRecord {
        MemberRecord {
            version: "0.1.0".to_owned(),
            address: "10.0.0.1:62201".to_owned(),
            clock,
            policy_revision: 1,
            policy_digest: digest.to_owned(),
        }
    }

    #[test]
    fn the_highest_clock_is_computed_from_how_far_each_was_off_the_median() {
        let now = Timestamp::from_millis(1_000_000);
        for (own, offsets, highest) in [
            ("a", &[("a", 0), ("b", 4_100), ("c", -3_000)][..], 1_004_100),
            ("c", &[("a", 0), ("b", 4_100), ("c", -3_000)], 1_007_100),
            ("b", &[("a", 0), ("b", 4_100), ("c", -3_000)], 1_000_000),
            ("new", &[("a", 0), ("b", 4_100), ("c", -3_000)], 1_007_100),
            ("a", &[("a", 0)], 1_000_000),
            ("a", &[], 1_000_000),
            ("a", &[("a", i64::MIN), ("b", i64::MAX)], 1_000_000 + i64::MAX.unsigned_abs()),
        ] {
            let found = highest_clock(now, &own.parse().unwrap(), offsets.iter().copied());
            assert_eq!(found.as_millis(), highest, "{own} {offsets:?}");
        }
    }

    #[test]
    fn clocks_run_on_since_their_records_and_policies_are_compared_with_the_own_one() {
        let name = |text: &str| text.parse::<MemberName>().unwrap();
        let records = BTreeMap::from([
            (name("a"), (record(100_000, "x"), 5)),
            (name("b"), (record(103_000, "y"), 2)),
            (name("c"), (record(100_000, "x"), 1)),
        ]);
        let ahead = ClockOffset::Behind(Duration::ZERO);
        let summary = |own: &str| {
            let members = members(&name(own), records.clone());
            members.into_iter().map(|member| (member.offset, member.has_same_policy)).collect::<Vec<_>>()
        };
        let behind = ClockOffset::Behind(Duration::from_secs(4));
        assert_eq!(summary("b"), [(ahead, false), (ahead, true), (behind, false)]);
        assert_eq!(summary("gone"), [(ahead, true), (ahead, false), (behind, true)]);
    }
}
