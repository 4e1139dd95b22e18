//! Who belongs to the fleet at the moment: each member writes a record every 10 s, and a lease of 30 s ends it.
//!
//! Records are not sealed: anyone who can write to the store can forge them. They decide about the floor, which costs liveness
//! alone, and about what `status` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spa_knock_core::knock::{Steady, Timestamp};

use crate::client::{Patience, StoreClient, StoreError, StoreFault};
use crate::floor::MemberClock;
use crate::keys::{KeySpace, StoreKey};
use crate::names::MemberName;

/// The lease of a record, in seconds.
pub const RECORD_LEASE: u64 = 30;
/// A record is written this often.
pub const RECORD_EVERY: Duration = Duration::from_secs(10);
/// More members are not a fleet.
const MOST_MEMBERS: usize = 64;

/// What a member publishes about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The version of its program.
    pub version: String,
    /// Where it listens.
    pub address: String,
    /// Its clock, in milliseconds since the Unix epoch.
    pub clock: u64,
    /// The revision of the store that its policy is from.
    pub policy_revision: u64,
    /// A digest of its policy, to compare members.
    pub policy_digest: String,
}

/// A record that is unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("member {0}: its record is invalid\nhint: update the members to the same version")]
pub struct InvalidRecord(MemberName);

impl MemberRecord {
    /// The record as a value in the store.
    #[must_use]
    pub fn to_value(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record. Text that is not printable ASCII or longer than 64 bytes is rejected: `status` prints it.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(name: &MemberName, value: &[u8]) -> Result<Self, InvalidRecord> {
        let invalid = || InvalidRecord(name.clone());
        let record: Self = serde_json::from_slice(value).map_err(|_| invalid())?;
        let is_word = |text: &str| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic());
        let words = [&record.version, &record.address, &record.policy_digest];
        if words.into_iter().all(|word| is_word(word)) { Ok(record) } else { Err(invalid()) }
    }
}

/// The live members, with the time at which each record was received.
#[derive(Debug, Default)]
pub struct Members {
    live: BTreeMap<MemberName, LiveMember>,
}

/// A member with a record.
#[derive(Debug, Clone)]
pub struct LiveMember {
    /// What it has published.
    pub record: MemberRecord,
    /// When its record arrived.
    received: Steady,
}

impl LiveMember {
    /// Its clock now: it has run since the record arrived. If the record was late, the result is too low, which raises
    /// the floor less.
    #[must_use]
    pub fn clock(&self, now: Steady) -> Timestamp {
        Timestamp::from_millis(self.record.clock).plus(now.since(self.received))
    }
}

impl Members {
    /// Records a written or deleted record.
    ///
    /// # Errors
    /// If the record is unreadable; the member then is not live.
    pub fn apply(
        &mut self,
        name: MemberName,
        value: Option<&[u8]>,
        now: Steady,
    ) -> Result<(), InvalidRecord> {
        let Some(value) = value else {
            self.live.remove(&name);
            return Ok(());
        };
        match MemberRecord::parse(&name, value) {
            Ok(record) if self.live.len() < MOST_MEMBERS || self.live.contains_key(&name) => {
                self.live.insert(name, LiveMember { record, received: now });
                Ok(())
            }
            Ok(_) => Err(InvalidRecord(name)),
            Err(invalid) => {
                self.live.remove(&name);
                Err(invalid)
            }
        }
    }

    /// Forgets all, before all are read again.
    pub fn clear(&mut self) {
        self.live.clear();
    }

    /// The live members by name.
    pub fn iter(&self) -> impl Iterator<Item = (&MemberName, &LiveMember)> {
        self.live.iter()
    }

    /// All clocks now, for [`crate::floor::decide`]. The own clock is read, not remembered.
    #[must_use]
    pub fn clocks(&self, own: &MemberName, own_clock: Timestamp, now: Steady) -> Vec<MemberClock> {
        self.live
            .iter()
            .map(|(name, member)| {
                let clock = if name == own { own_clock } else { member.clock(now) };
                MemberClock { name: name.clone(), clock }
            })
            .collect()
    }
}

/// Keeps the own record alive. Runs in the store process, every 10 s.
#[derive(Debug)]
pub struct OwnRecord {
    key: String,
    lease: Option<u64>,
}

impl OwnRecord {
    /// The record of this member.
    #[must_use]
    pub fn new(space: &KeySpace, name: &MemberName) -> Self {
        Self { key: space.path(&StoreKey::Member(name.clone())), lease: None }
    }

    /// Renews the lease, or creates one, and writes the record.
    ///
    /// # Errors
    /// If the store does not answer; try again after a second.
    pub fn publish(&mut self, client: &StoreClient, record: &MemberRecord) -> Result<(), StoreError> {
        let lease = self.lease(client)?;
        let written = client.put(&self.key, &record.to_value(), lease, Patience::BACKGROUND);
        if written.as_ref().is_err_and(|error| *error.fault() == StoreFault::NoLease) {
            self.lease = None;
        }
        written.map(drop)
    }

    fn lease(&mut self, client: &StoreClient) -> Result<u64, StoreError> {
        if let Some(lease) = self.lease {
            match client.keep_lease(lease, Patience::BACKGROUND) {
                Ok(_) => return Ok(lease),
                Err(error) if *error.fault() == StoreFault::NoLease => {}
                Err(error) => return Err(error),
            }
        }
        let lease = client.grant_lease(RECORD_LEASE, Patience::BACKGROUND)?.id;
        self.lease = Some(lease);
        Ok(lease)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make times")]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    fn record(clock: u64) -> MemberRecord {
        MemberRecord {
            version: "0.1.0".to_owned(),
            address: "10.0.0.1:62201".to_owned(),
            clock,
            policy_revision: 118,
            policy_digest: "ab".to_owned(),
        }
    }

    #[test]
    fn a_clock_runs_on_from_the_receipt_of_its_record() {
        let [a, b]: [MemberName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let mut members = Members::default();
        for name in [&a, &b] {
            members.apply(name.clone(), Some(&record(1_000).to_value()), at(5)).unwrap();
        }
        let clocks = members.clocks(&a, Timestamp::from_millis(9), at(8));
        let expected = [(&a, 9), (&b, 4_000)]
            .map(|(name, clock)| MemberClock { name: name.clone(), clock: Timestamp::from_millis(clock) });
        assert_eq!(clocks, expected);
        members.apply(b, None, at(9)).unwrap();
        assert_eq!(members.iter().count(), 1);
    }

    #[test]
    fn a_record_with_unprintable_text_ends_the_member() {
        let name: MemberName = "a".parse().unwrap();
        let mut members = Members::default();
        members.apply(name.clone(), Some(&record(1).to_value()), at(0)).unwrap();
        let bad = MemberRecord { version: "\u{1b}[2J".to_owned(), ..record(1) };
        for value in [bad.to_value(), b"{}".to_vec(), b"x".to_vec()] {
            let error = members.apply(name.clone(), Some(&value), at(0)).unwrap_err();
            assert_eq!(
                error.to_string(),
                "member a: its record is invalid\nhint: update the members to the same version"
            );
            assert_eq!(members.iter().count(), 0);
        }
        assert_eq!(MemberRecord::parse(&name, &record(1).to_value()), Ok(record(1)));
    }
}
