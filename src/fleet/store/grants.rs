//! Writes grants for all members, on leases that were created in advance, and deletes them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::keeper_channel::KeeperGone;
use super::mailbox::Mailbox;
use super::store_health::StoreHealth;
use crate::fleet::ipc;
use crate::os::clock;
use spa_knock_core::auth::KnockId;
use spa_knock_core::knock::Steady;
use spa_knock_fleet::client::{KeyRange, Patience, StoreClient, StoreError, StoreFault, Txn, TxnOp};
use spa_knock_fleet::grants::publish;
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::leases::{LeasePool, WantedLease};

/// How often leases are replaced, and how soon what has failed is tried again.
const TICK: Duration = Duration::from_secs(1);
/// A grant that could not be written for this long is not written any more: others would open it far too late.
const LATEST: Duration = Duration::from_secs(30);
/// So many grants are written, or deleted, with one transaction.
const MOST_TOGETHER: usize = 16;
/// So many grants wait at most.
const MOST_WAITING: usize = 1_024;

/// What must be written and deleted.
#[derive(Default)]
pub(super) struct GrantWork {
    publish: VecDeque<SealedGrant>,
    withdraw: BTreeSet<KnockId>,
    /// What later grants have replaced: deleted only after these are written, so that no port closes in between.
    replaced: BTreeSet<KnockId>,
}

/// A grant to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SealedGrant {
    id: KnockId,
    seconds: u32,
    sealed: Vec<u8>,
    received: Steady,
}

/// One step of the work.
#[derive(Debug, PartialEq, Eq)]
enum GrantBatch {
    Withdraw(Vec<KnockId>),
    Publish(Vec<SealedGrant>),
}

/// The thread.
pub(super) struct GrantThread {
    pub(super) health: Arc<StoreHealth>,
    pub(super) client: Arc<StoreClient>,
    pub(super) space: KeySpace,
    pub(super) work: Arc<Mailbox<GrantWork>>,
}

/// The grant that a message means.
pub(super) fn parse(id: &str, seconds: u32, sealed: &str, received: Steady) -> Option<SealedGrant> {
    Some(SealedGrant { id: ipc::array_from_hex(id)?, seconds, sealed: ipc::from_hex(sealed)?, received })
}

/// The knocks that these ids name.
pub(super) fn parse_ids(ids: &[String]) -> Option<Vec<KnockId>> {
    ids.iter().map(|id| ipc::array_from_hex(id)).collect()
}

impl GrantWork {
    /// Adds a grant to write, and those that it replaces.
    pub(super) fn publish(&mut self, grant: SealedGrant, replaced: Vec<KnockId>) {
        self.replaced.extend(replaced);
        if self.publish.len() < MOST_WAITING {
            self.publish.push_back(grant);
        } else {
            log::warn!("store: too many grants wait; one opens only on this member");
        }
    }

    /// Adds grants to delete. Those that are not written yet are not written.
    pub(super) fn withdraw(&mut self, ids: Vec<KnockId>) {
        self.publish.retain(|grant| !ids.contains(&grant.id));
        self.withdraw.extend(ids);
    }

    /// What to do next: delete first, then write the oldest grants.
    fn take(&mut self) -> Option<GrantBatch> {
        if !self.withdraw.is_empty() {
            let ids: Vec<_> = self.withdraw.iter().take(MOST_TOGETHER).copied().collect();
            self.withdraw.retain(|id| !ids.contains(id));
            return Some(GrantBatch::Withdraw(ids));
        }
        let count = self.publish.len().min(MOST_TOGETHER);
        let grants: Vec<_> = self.publish.drain(..count).collect();
        if !grants.is_empty() {
            return Some(GrantBatch::Publish(grants));
        }
        let replaced: Vec<_> = self.replaced.iter().take(MOST_TOGETHER).copied().collect();
        self.replaced.retain(|id| !replaced.contains(id));
        (!replaced.is_empty()).then_some(GrantBatch::Withdraw(replaced))
    }

    /// Takes back what has failed. What is withdrawn by now is not written again, nor what is too old.
    fn put_back(&mut self, batch: GrantBatch, now: Steady) {
        match batch {
            GrantBatch::Withdraw(ids) => self.withdraw.extend(ids),
            GrantBatch::Publish(grants) => {
                for grant in grants.into_iter().rev() {
                    // A grant that will be deleted may have been written although no answer came.
                    if now.since(grant.received) < LATEST && !self.withdraw.contains(&grant.id) {
                        self.publish.push_front(grant);
                    }
                }
            }
        }
    }
}

impl GrantThread {
    pub(super) fn run(self) -> KeeperGone {
        let mut leases = LeasePool::default();
        let mut tick_due = clock::steady();
        let mut fails = false;
        loop {
            if clock::steady() >= tick_due {
                self.replace_leases(&mut leases);
                tick_due = clock::steady().plus(TICK);
            }
            let left = tick_due.since(clock::steady());
            let Some(batch) = self.work.wait(left, GrantWork::take) else { continue };
            let outcome = match &batch {
                GrantBatch::Withdraw(ids) => self.delete(ids),
                GrantBatch::Publish(grants) => self.write(grants, &mut leases),
            };
            self.health.record(&outcome);
            let failed_before = std::mem::replace(&mut fails, outcome.is_err());
            if let Err(error) = outcome {
                if !failed_before {
                    log::warn!("grants: {error}\nretrying");
                }
                self.work.change(|work| work.put_back(batch, clock::steady()));
                std::thread::sleep(TICK);
            }
        }
    }

    fn replace_leases(&self, leases: &mut LeasePool) {
        for wanted in leases.run_due(clock::steady()) {
            if self.create_lease(wanted, leases).is_err() {
                return;
            }
        }
    }

    fn create_lease(&self, wanted: WantedLease, leases: &mut LeasePool) -> Result<u64, StoreError> {
        let asked = clock::steady();
        let created = self.client.grant_lease(wanted.ttl, Patience::CLAIM);
        self.health.record(&created);
        let lease = created?.id;
        leases.insert(wanted.seconds, lease, asked);
        Ok(lease)
    }

    fn delete(&self, ids: &[KnockId]) -> Result<(), StoreError> {
        let delete = |id: &KnockId| TxnOp::Delete(KeyRange::one(self.space.path(&StoreKey::Grant(*id))));
        let txn = Txn::unconditional(ids.iter().map(delete).collect());
        self.client.txn(&txn, Patience::BACKGROUND).map(drop)
    }

    fn write(&self, grants: &[SealedGrant], leases: &mut LeasePool) -> Result<(), StoreError> {
        let mut operations = Vec::new();
        let mut used = Vec::new();
        for grant in grants {
            let lease = match leases.take(grant.seconds, clock::steady()) {
                Some(lease) => lease,
                None => self.create_lease(LeasePool::wanted(grant.seconds), leases)?,
            };
            used.push(lease);
            operations.extend(publish(&self.space, grant.id, &grant.sealed, lease).success);
        }
        let written = self.client.txn(&Txn::unconditional(operations), Patience::CLAIM);
        if written.as_ref().is_err_and(|error| *error.fault() == StoreFault::NoLease) {
            used.into_iter().for_each(|lease| leases.forget(lease));
        }
        written.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(id: u8, received: Steady) -> SealedGrant {
        SealedGrant { id: [id; 12], seconds: 30, sealed: vec![id], received }
    }

    #[test]
    fn grants_are_deleted_first_and_written_in_order_up_to_16_together() {
        let now = clock::steady();
        let mut work = GrantWork::default();
        (0..20).for_each(|id| work.publish(grant(id, now), Vec::new()));
        work.withdraw(vec![[3; 12], [99; 12]]);
        assert_eq!(work.take(), Some(GrantBatch::Withdraw(vec![[3; 12], [99; 12]])));
        let written = |batch: Option<GrantBatch>| match batch {
            Some(GrantBatch::Publish(grants)) => grants.iter().map(|grant| grant.id[0]).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let order: Vec<u8> = (0..20).filter(|id| *id != 3).collect();
        assert_eq!(written(work.take()), order[..16]);
        assert_eq!(written(work.take()), order[16..]);
        assert_eq!(work.take(), None);
    }

    #[test]
    fn what_has_failed_is_tried_again_unless_it_is_late_or_withdrawn() {
        let now = clock::steady();
        let later = now.plus(LATEST / 2);
        let mut work = GrantWork::default();
        work.put_back(
            GrantBatch::Publish(vec![grant(1, now), grant(2, now), grant(3, later)]),
            now.plus(LATEST / 3),
        );
        work.publish(grant(4, later), Vec::new());
        let Some(GrantBatch::Publish(batch)) = work.take() else { panic!("nothing to write") };
        assert_eq!(batch, [grant(1, now), grant(2, now), grant(3, later), grant(4, later)]);
        work.withdraw(vec![[4; 12]]);
        work.put_back(GrantBatch::Publish(batch), now.plus(LATEST));
        // The deletion must come after the write, which may have been carried out.
        assert_eq!(work.take(), Some(GrantBatch::Withdraw(vec![[4; 12]])));
        assert_eq!(work.take(), Some(GrantBatch::Publish(vec![grant(3, later)])));
        work.put_back(GrantBatch::Withdraw(vec![[4; 12]]), now);
        assert_eq!(work.take(), Some(GrantBatch::Withdraw(vec![[4; 12]])));
    }

    #[test]
    fn what_a_grant_replaces_is_deleted_after_it_is_written() {
        let now = clock::steady();
        let mut work = GrantWork::default();
        work.publish(grant(2, now), vec![[1; 12]]);
        work.publish(grant(3, now), vec![[2; 12]]);
        assert_eq!(work.take(), Some(GrantBatch::Publish(vec![grant(2, now), grant(3, now)])));
        assert_eq!(work.take(), Some(GrantBatch::Withdraw(vec![[1; 12], [2; 12]])));
        assert_eq!(work.take(), None);
    }

    #[test]
    fn only_so_many_grants_wait() {
        let now = clock::steady();
        let mut work = GrantWork::default();
        (0..MOST_WAITING + 5).for_each(|_| work.publish(grant(1, now), Vec::new()));
        assert_eq!(work.publish.len(), MOST_WAITING);
    }

    #[test]
    fn a_grant_is_read_from_hex_digits() {
        let now = clock::steady();
        let read = parse(&"07".repeat(12), 30, "07", now);
        assert_eq!(read, Some(grant(7, now)));
        for (id, sealed) in [("07", "07"), (&"07".repeat(13), "07"), (&"07".repeat(12), "0")] {
            assert_eq!(parse(id, 30, sealed, now), None, "{id} {sealed}");
        }
    }
}
