//! Follows what the store contains: policy and grants go to the keeper, members and the floor stay here.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use super::keeper_channel::{KeeperChannel, KeeperGone};
use super::store_health::StoreHealth;
use crate::fleet::ipc::{CONTENT_MAX, FromStore, hex};
use crate::os::clock;
use spa_knock_core::knock::{Steady, Timestamp};
use spa_knock_fleet::client::{KeyValue, Patience, StoreClient, StoreFault};
use spa_knock_fleet::floor;
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::mirror::{Mirror, MirrorEvent};

/// Before asking again a store that did not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A sealed value is a little longer than its content.
const VALUE_MAX: usize = CONTENT_MAX + (1 << 10);

/// The thread.
pub(super) struct MirrorThread {
    pub(super) keeper: Arc<KeeperChannel>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) client: Arc<StoreClient>,
    pub(super) space: KeySpace,
}

impl MirrorThread {
    pub(super) fn run(self) -> KeeperGone {
        let mut mirror = Mirror::new(&self.client, self.space.clone());
        let mut logged = None;
        // The highest floor of the mirror itself: a claim may have seen a later one.
        let mut floor = Timestamp::default();
        loop {
            let begun = clock::steady();
            let known = self.client.mark().map(|mark| mark.floor()).unwrap_or_default();
            let event = mirror.wait();
            Self::log_loss(&event, &mut logged);
            let sent = match event {
                MirrorEvent::Everything { revision, keys } => {
                    floor = known;
                    self.pass_everything(revision, keys, &mut floor)
                }
                MirrorEvent::Changes { revision, changes } => {
                    let now = clock::steady();
                    self.health.record_watched(now);
                    changes
                        .iter()
                        .try_for_each(|(key, change)| self.apply(key, change.value(), &mut floor, now, None))
                        .and_then(|()| self.keeper.send(&FromStore::Complete { revision }))
                }
                MirrorEvent::Idle => {
                    // After silence, whether the store still answers is not known before the next watch is open.
                    self.health.record_watched(begun);
                    Ok(())
                }
                MirrorEvent::Lost(error) => {
                    self.health.record_fault(error.fault());
                    std::thread::sleep(PAUSE);
                    Ok(())
                }
            };
            if let Err(gone) = sent {
                return gone;
            }
        }
    }

    fn pass_everything(
        &self,
        revision: u64,
        keys: Vec<(StoreKey, KeyValue)>,
        floor: &mut Timestamp,
    ) -> Result<(), KeeperGone> {
        let now = clock::steady();
        self.health.record_watched(now);
        self.health.change_members(spa_knock_fleet::members::Members::clear);
        self.keeper.send(&FromStore::Begin)?;
        let mut leases = BTreeMap::new();
        for (key, found) in keys {
            let lease_left = matches!(key, StoreKey::Grant(_))
                .then(|| *leases.entry(found.lease).or_insert_with(|| self.lease_left(found.lease)));
            self.apply(&key, Some(&found.value), floor, now, lease_left)?;
        }
        self.keeper.send(&FromStore::Complete { revision })
    }

    /// The seconds that a lease has left; 0 if that is unknown, or there is none: every grant is written with one, and to
    /// close early is safe.
    fn lease_left(&self, lease: u64) -> u64 {
        if lease == 0 {
            return 0;
        }
        self.client.lease_left(lease, Patience::BACKGROUND).unwrap_or(0)
    }

    /// Applies a key that was found, written or deleted.
    fn apply(
        &self,
        key: &StoreKey,
        value: Option<&[u8]>,
        floor: &mut Timestamp,
        now: Steady,
        lease_left: Option<u64>,
    ) -> Result<(), KeeperGone> {
        match key {
            StoreKey::PolicyClient(_)
            | StoreKey::PolicyAction(_)
            | StoreKey::PolicyRevoked(_)
            | StoreKey::Grant(_) => {
                if value.is_some_and(|value| value.len() > VALUE_MAX) {
                    log::warn!("store: {key} is longer than 64 KiB; ignoring it");
                    return Ok(());
                }
                let value = value.map(hex);
                self.keeper.send(&FromStore::Entry { key: key.to_string(), value, lease_left })?;
            }
            StoreKey::Member(name) => {
                let applied = self.health.change_members(|members| members.apply(name.clone(), value, now));
                if let Err(invalid) = applied {
                    log::warn!("{invalid}");
                }
            }
            StoreKey::Floor => self.apply_floor(value, floor, now),
            StoreKey::Claim(_) | StoreKey::Otp(_) | StoreKey::Uses(_) => {}
        }
        Ok(())
    }

    fn apply_floor(&self, value: Option<&[u8]>, floor: &mut Timestamp, now: Steady) {
        // Where it was deleted, claims fail.
        let Some(new) = value.and_then(floor::parse_value) else { return };
        let recorded = self.client.record_floor(new, *floor);
        if let Err(error) = &recorded {
            self.health.record_fault(error.fault());
            log::error!("{error}");
        }
        if new > *floor {
            *floor = new;
            self.health.record_floor_change(now);
        }
    }

    /// Logs that the store does not answer, and that it does again. `logged` is the kind of fault that was logged last.
    fn log_loss(event: &MirrorEvent, logged: &mut Option<Discriminant<StoreFault>>) {
        let MirrorEvent::Lost(error) = event else {
            if logged.take().is_some() {
                log::info!("store: answers again");
            }
            return;
        };
        let kind = Some(discriminant(error.fault()));
        if logged.is_none() || (*logged != kind && is_lasting(error.fault())) {
            *logged = kind;
            log::warn!("{error}\nretrying");
        }
    }
}

/// Whether a fault does not end by itself, so that it is logged although the store did not answer before either.
const fn is_lasting(fault: &StoreFault) -> bool {
    fault.hint().is_some()
}
