//! Claims that wait for their turn: a bounded number, of which up to 64 go out in one transaction.

use std::collections::{HashSet, VecDeque};

use super::KnockClaim;
use crate::keys::StoreKey;

/// So many claims wait at most; another knock is refused.
pub const MOST_WAITING: usize = 256;
/// So many go out together. Each has up to three operations, and etcd allows 128 in all by default.
pub const MOST_IN_BATCH: usize = 64;

/// The queue is full: refuse the knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fleet store does not answer; try again")]
pub struct QueueFull;

/// Waiting claims, each with what the caller needs to go on with it.
#[derive(Debug)]
pub struct ClaimQueue<T> {
    waiting: VecDeque<(KnockClaim, T)>,
}

impl<T> Default for ClaimQueue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> ClaimQueue<T> {
    /// Adds a claim.
    ///
    /// # Errors
    /// If 256 are waiting.
    pub fn push(&mut self, claim: KnockClaim, ticket: T) -> Result<(), QueueFull> {
        if self.waiting.len() >= MOST_WAITING {
            return Err(QueueFull);
        }
        self.waiting.push_back((claim, ticket));
        Ok(())
    }

    /// Whether a knock waits already: copies of it get nothing.
    #[must_use]
    pub fn contains(&self, claim: &crate::keys::ClaimKey) -> bool {
        self.waiting.iter().any(|(waiting, _)| waiting.key == *claim)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Removes and returns at most 64 claims, the oldest first, of which no two write the same key. A claim never overtakes an older one
    /// with a key in common.
    pub fn take_batch(&mut self) -> Vec<(KnockClaim, T)> {
        let mut written: HashSet<StoreKey> = HashSet::new();
        let (mut batch, mut rest) = (Vec::new(), VecDeque::new());
        for entry in self.waiting.drain(..) {
            let is_free = entry.0.written().all(|key| !written.contains(&key));
            written.extend(entry.0.written());
            if is_free && batch.len() < MOST_IN_BATCH {
                batch.push(entry);
            } else {
                rest.push_back(entry);
            }
        }
        self.waiting = rest;
        batch
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests panic on overflow")]
mod tests {
    use proptest::prelude::*;
    use spa_knock_core::auth::ReplayDomain;
    use spa_knock_core::crypto::Fingerprint;
    use spa_knock_core::knock::Timestamp;

    use super::super::{CodeUse, CountedUse};
    use super::*;
    use crate::keys::{ClaimKey, SeedId};

    fn claim(id: u8, seed: Option<u8>, uses: Option<u8>) -> KnockClaim {
        KnockClaim {
            key: ClaimKey {
                timestamp: Timestamp::from_millis(1),
                fingerprint: Fingerprint::from_bytes([1; 8]),
                domain: ReplayDomain::Datagrams,
                id: [id; 12],
            },
            attempt: [0; 16],
            code: seed.map(|seed| CodeUse { seed: SeedId::from_bytes([seed; 8]), step: 1 }),
            uses: uses.map(|key| CountedUse {
                fingerprint: Fingerprint::from_bytes([key; 8]),
                known: 0,
                limit: 9,
            }),
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = ClaimQueue::default();
        for number in 0..MOST_WAITING {
            assert_eq!(queue.push(claim(1, None, None), number), Ok(()));
        }
        assert_eq!(queue.push(claim(2, None, None), 0), Err(QueueFull));
        assert!(queue.contains(&claim(1, None, None).key) && !queue.contains(&claim(2, None, None).key));
    }

    #[test]
    fn claims_with_a_key_in_common_go_out_one_after_the_other() {
        let mut queue = ClaimQueue::default();
        let claims = [
            claim(1, Some(1), None),
            claim(2, Some(1), Some(2)),
            claim(3, None, Some(2)),
            claim(4, None, None),
            claim(1, None, None),
        ];
        for (number, claim) in claims.into_iter().enumerate() {
            queue.push(claim, number).unwrap();
        }
        let mut tickets = || queue.take_batch().into_iter().map(|(_, ticket)| ticket).collect::<Vec<_>>();
        assert_eq!([tickets(), tickets(), tickets(), tickets()], [vec![0, 3], vec![1, 4], vec![2], vec![]]);
    }

    proptest! {
        #[test]
        fn batches_are_disjoint_and_lose_nothing(
            claims in proptest::collection::vec((0_u8..200, proptest::option::of(0_u8..4), proptest::option::of(0_u8..4)), 0..200),
        ) {
            let mut queue = ClaimQueue::default();
            for (number, (id, seed, uses)) in claims.iter().enumerate() {
                queue.push(claim(*id, *seed, *uses), number).unwrap();
            }
            let mut order = Vec::new();
            while !queue.is_empty() {
                let batch = queue.take_batch();
                prop_assert!((1..=MOST_IN_BATCH).contains(&batch.len()));
                let mut written = HashSet::new();
                for (claim, ticket) in batch {
                    prop_assert!(claim.written().all(|key| written.insert(key)));
                    order.push((ticket, claims[ticket]));
                }
            }
            for (number, (a, x)) in order.iter().enumerate() {
                for (b, y) in &order[number + 1..] {
                    let shares = x.0 == y.0 || (x.1.is_some() && x.1 == y.1) || (x.2.is_some() && x.2 == y.2);
                    prop_assert!(!shares || a < b);
                }
            }
            prop_assert_eq!(order.len(), claims.len());
        }
    }
}
