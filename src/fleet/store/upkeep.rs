//! What happens every 10 s: the member's record is written, the floor rises, and every endpoint is asked for its state,
//! which keeps connections and tokens usable.

use std::sync::Arc;
use std::time::Duration;

use super::keeper_channel::KeeperGone;
use super::mailbox::Mailbox;
use super::store_health::StoreHealth;
use crate::os::clock;
use spa_knock_fleet::MemberName;
use spa_knock_fleet::client::{Patience, StoreClient, StoreError};
use spa_knock_fleet::floor::{self, GarbageVerdict};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::members::{MemberRecord, OwnRecord, RECORD_EVERY};

/// How often the floor and the endpoints are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// How soon a record that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the member's record contains besides its clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberDescription {
    pub(super) address: String,
    pub(super) policy_revision: u64,
    pub(super) policy_digest: String,
}

/// The thread.
pub(super) struct UpkeepThread {
    pub(super) health: Arc<StoreHealth>,
    pub(super) client: Arc<StoreClient>,
    pub(super) space: KeySpace,
    pub(super) member: MemberName,
    pub(super) version: String,
    pub(super) window: Duration,
    /// A new description, until it is taken.
    pub(super) description: Arc<Mailbox<Option<MemberDescription>>>,
}

impl UpkeepThread {
    pub(super) fn run(self) -> KeeperGone {
        let mut record = OwnRecord::new(&self.space, &self.member);
        let mut description: Option<MemberDescription> = None;
        let (mut record_due, mut inspection_due) = (clock::steady(), clock::steady());
        loop {
            if let Some(description) = description.as_ref().filter(|_| clock::steady() >= record_due) {
                let written = self.write(&mut record, description);
                record_due = clock::steady().plus(if written.is_ok() { RECORD_EVERY } else { RETRY });
            }
            if clock::steady() >= inspection_due {
                inspection_due = clock::steady().plus(EVERY);
                self.raise_floor();
                let floor = self.space.path(&StoreKey::Floor);
                self.health.record_endpoints(&self.client.inspect(&floor, Patience::BACKGROUND));
            }
            let due = if description.is_some() { record_due.min(inspection_due) } else { inspection_due };
            if let Some(new) = self.description.wait(due.since(clock::steady()), Option::take) {
                description = Some(new);
                record_due = clock::steady();
            }
        }
    }

    fn write(&self, record: &mut OwnRecord, description: &MemberDescription) -> Result<(), StoreError> {
        let MemberDescription { address, policy_revision, policy_digest } = description.clone();
        let version = self.version.clone();
        let clock = clock::wall().as_millis();
        let content = MemberRecord { version, address, clock, policy_revision, policy_digest };
        let written = record.publish(&self.client, &content);
        self.health.record(&written);
        written
    }

    /// Raises the floor if it is this member's turn, and deletes the claims below.
    fn raise_floor(&self) {
        let now = clock::steady();
        let before = self.client.mark().map(|mark| mark.floor()).unwrap_or_default();
        let clocks = self.health.clocks(clock::wall(), now);
        let since = self.health.since_floor_change(now);
        let verdict = floor::decide(&self.member, &clocks, self.window, before, since);
        self.health.record_own_clock(match verdict {
            GarbageVerdict::OwnClockOff(offset) => Some(offset),
            GarbageVerdict::Raise(_) | GarbageVerdict::Wait => None,
        });
        let GarbageVerdict::Raise(target) = verdict else { return };
        let raised = self.client.txn(&floor::raise(&self.space, target), Patience::BACKGROUND);
        self.health.record(&raised);
        let Ok(response) = raised else { return };
        let found = if response.succeeded { Some(target) } else { floor::existing(&response) };
        if let Some(floor) = found {
            self.health.record(&self.client.record_floor(floor, before));
        }
    }
}
