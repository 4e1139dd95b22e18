//! Grants that all members open: sealed with the fleet key, written after the claim is won, ended by a lease or by
//! deletion. Written with the claim, a grant would open on all members although its outcome stayed unknown and the knock
//! was refused.
//!
//! Each member counts the age of a grant from its own receipt. Timestamps only reject: a grant that is older than it can
//! be was brought back by the store.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spa_knock_core::auth::KnockId;
use spa_knock_core::knock::{ActionName, ClientName, PortRange, Prefix, Steady, Timestamp};

use crate::client::{Txn, TxnOp};
use crate::keys::{KeySpace, StoreKey};
use crate::leases::SHARED_FOR;
use crate::seal::{FleetKey, SealFault, UnsealError};

/// What a knock has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedGrant {
    /// Whose knock it was.
    pub client: ClientName,
    /// What it asked for.
    pub action: ActionName,
    /// For which addresses.
    pub addresses: Vec<Prefix>,
    /// Which ports.
    pub ports: Vec<PortRange>,
    /// For how long.
    pub seconds: u32,
    /// The timestamp of the knock.
    pub timestamp: Timestamp,
}

/// The JSON form, in which values are text.
#[derive(Serialize, Deserialize)]
struct GrantText {
    client: String,
    action: String,
    addresses: Vec<String>,
    ports: Vec<String>,
    seconds: u32,
}

/// Why a grant is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantFault {
    /// It was not sealed by this fleet.
    #[error(transparent)]
    Seal(#[from] UnsealError),
    /// It is sealed, but not understood.
    #[error("grant {0}: has an unknown form\nhint: update the members to the same version")]
    Form(String),
    /// By its timestamp it has ended, or is of the future.
    #[error(
        "grant {0}: its time is over, or not yet come\nhint: compare the clocks of the members; the store may have brought back an old grant"
    )]
    Time(String),
}

impl SharedGrant {
    /// Seals the grant for the path of this knock. The timestamp is its serial.
    ///
    /// # Errors
    /// If the system's random number generator fails, or the grant is longer than 64 KiB.
    pub fn seal(&self, key: &FleetKey, space: &KeySpace, id: KnockId) -> Result<Vec<u8>, SealFault> {
        let text = GrantText {
            client: self.client.to_string(),
            action: self.action.to_string(),
            addresses: self.addresses.iter().map(Prefix::to_string).collect(),
            ports: self.ports.iter().map(PortRange::to_string).collect(),
            seconds: self.seconds,
        };
        let content = serde_json::to_vec(&text).unwrap_or_default();
        key.seal(space, &StoreKey::Grant(id), self.timestamp.as_millis(), &content)
    }

    /// Opens a sealed grant and compares its timestamp with the own clock.
    ///
    /// # Errors
    /// If it was not sealed by this fleet, is not understood, or must have ended.
    pub fn open(
        key: &FleetKey,
        space: &KeySpace,
        id: KnockId,
        value: &[u8],
        now: Timestamp,
        window: Duration,
    ) -> Result<Self, GrantFault> {
        let path = StoreKey::Grant(id);
        let entry = key.open(space, &path, value)?;
        let text: GrantText =
            serde_json::from_slice(&entry.content).map_err(|_| GrantFault::Form(path.to_string()))?;
        let grant = Self::parse(&text, Timestamp::from_millis(entry.serial))
            .ok_or_else(|| GrantFault::Form(path.to_string()))?;
        if grant.is_plausible(now, window) { Ok(grant) } else { Err(GrantFault::Time(path.to_string())) }
    }

    fn parse(text: &GrantText, timestamp: Timestamp) -> Option<Self> {
        Some(Self {
            client: text.client.parse().ok()?,
            action: text.action.parse().ok()?,
            addresses: text.addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>().ok()?,
            ports: text.ports.iter().map(|ports| ports.parse()).collect::<Result<_, _>>().ok()?,
            seconds: text.seconds,
            timestamp,
        })
    }

    /// Whether the knock can have been granted, and the grant not ended. The claimant accepts a knock one window off its
    /// clock, and our clock may differ by another one.
    fn is_plausible(&self, now: Timestamp, window: Duration) -> bool {
        let reach = window.saturating_mul(2);
        let end = self.timestamp.plus(Duration::from_secs(u64::from(self.seconds))).plus(reach);
        now <= end && self.timestamp <= now.plus(reach)
    }
}

/// Writes a sealed grant for all members; only after its claim is won. `lease` is from [`crate::leases::LeasePool`].
#[must_use]
pub fn publish(space: &KeySpace, id: KnockId, sealed: &[u8], lease: u64) -> Txn {
    Txn::unconditional(vec![TxnOp::put_leased(space.path(&StoreKey::Grant(id)), sealed, lease)])
}

/// The grants of the store, and when each was received.
#[derive(Debug, Default)]
pub struct ReceivedGrants {
    held: BTreeMap<KnockId, ReceivedGrant>,
}

/// A grant and what is left of it.
#[derive(Debug, Clone)]
pub struct ReceivedGrant {
    /// What it opens.
    pub grant: SharedGrant,
    received: Steady,
    /// What was left when it was received.
    length: Duration,
}

impl ReceivedGrant {
    /// For how long it must be open, from now on; nothing if it has ended.
    #[must_use]
    pub fn remaining(&self, now: Steady) -> Option<Duration> {
        self.length.checked_sub(now.since(self.received)).filter(|left| !left.is_zero())
    }
}

impl ReceivedGrants {
    /// Records a grant that was just written, as the watch reports it. A grant that is known keeps its receipt, so that
    /// reading everything again extends nothing. Returns what to open.
    pub fn insert(&mut self, id: KnockId, grant: SharedGrant, now: Steady) -> &ReceivedGrant {
        let length = Duration::from_secs(u64::from(grant.seconds));
        self.insert_for(id, grant, length, now)
    }

    /// Records a grant that was found at the start, whose lease has `lease_left` to live. The lease began at most 10 s
    /// before the grant, and lasts 10 s longer.
    pub fn insert_found(
        &mut self,
        id: KnockId,
        grant: SharedGrant,
        lease_left: Duration,
        now: Steady,
    ) -> &ReceivedGrant {
        let length = Duration::from_secs(u64::from(grant.seconds)).min(lease_left.saturating_sub(SHARED_FOR));
        self.insert_for(id, grant, length, now)
    }

    fn insert_for(
        &mut self,
        id: KnockId,
        grant: SharedGrant,
        length: Duration,
        now: Steady,
    ) -> &ReceivedGrant {
        self.held.entry(id).or_insert(ReceivedGrant { grant, received: now, length })
    }

    /// Whether a grant is known.
    #[must_use]
    pub fn contains(&self, id: &KnockId) -> bool {
        self.held.contains_key(id)
    }

    /// Records that a grant was deleted. Returns what to close, if it is open.
    pub fn remove(&mut self, id: KnockId, now: Steady) -> Option<SharedGrant> {
        self.held.remove(&id).filter(|held| held.remaining(now).is_some()).map(|held| held.grant)
    }

    /// The ids of those that are not in `found`, after everything was read again: remove them.
    #[must_use]
    pub fn missing_from(&self, found: &std::collections::BTreeSet<KnockId>) -> Vec<KnockId> {
        self.held.keys().filter(|id| !found.contains(*id)).copied().collect()
    }

    /// The open ones.
    pub fn open(&self, now: Steady) -> impl Iterator<Item = (&KnockId, &ReceivedGrant)> {
        self.held.iter().filter(move |(_, held)| held.remaining(now).is_some())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make times")]
mod tests {
    use spa_knock_core::crypto::Secret;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const WINDOW: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    fn grant() -> SharedGrant {
        SharedGrant {
            client: "laptop".parse().unwrap(),
            action: "open-ssh".parse().unwrap(),
            addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::/64".parse().unwrap()],
            ports: vec!["tcp/22".parse().unwrap(), "udp/8000-8010".parse().unwrap()],
            seconds: 30,
            timestamp: Timestamp::from_millis(NOW),
        }
    }

    #[test]
    fn a_grant_opens_as_it_was_sealed_while_its_time_can_be_right() {
        let space = KeySpace::new(&"prod".parse().unwrap());
        let key = FleetKey::new(&Secret::from_bytes(&[1; 32]), &space);
        let sealed = grant().seal(&key, &space, [7; 12]).unwrap();
        let open =
            |id, now| SharedGrant::open(&key, &space, id, &sealed, Timestamp::from_millis(now), WINDOW);
        let path = "grant/070707070707070707070707".to_owned();
        for now in [NOW - 60_000, NOW, NOW + 90_000] {
            assert_eq!(open([7; 12], now), Ok(grant()));
        }
        for now in [NOW - 60_001, NOW + 90_001] {
            assert_eq!(open([7; 12], now), Err(GrantFault::Time(path.clone())));
        }
        assert!(matches!(open([8; 12], NOW), Err(GrantFault::Seal(UnsealError::Forged(_)))));
    }

    #[test]
    fn age_is_counted_from_the_first_receipt() {
        let mut grants = ReceivedGrants::default();
        let left = |held: &ReceivedGrant, now| held.remaining(at(now)).map(|left| left.as_secs());
        assert_eq!(left(grants.insert([1; 12], grant(), at(100)), 100), Some(30));
        assert_eq!(left(grants.insert([1; 12], grant(), at(110)), 110), Some(20));
        assert_eq!(
            left(grants.insert_found([2; 12], grant(), Duration::from_secs(15), at(100)), 100),
            Some(5)
        );
        assert_eq!(
            left(grants.insert_found([3; 12], grant(), Duration::from_secs(99), at(100)), 100),
            Some(30)
        );
        assert_eq!(left(grants.insert_found([4; 12], grant(), Duration::from_secs(9), at(100)), 100), None);
        assert_eq!(grants.open(at(110)).count(), 2);
        let found = std::collections::BTreeSet::from([[1; 12], [2; 12], [4; 12]]);
        assert_eq!(grants.missing_from(&found), [[3; 12]]);
        assert_eq!(grants.remove([1; 12], at(129)), Some(grant()));
        assert_eq!(grants.remove([2; 12], at(129)), None);
    }
}
