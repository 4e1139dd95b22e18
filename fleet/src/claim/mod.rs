//! The claim of a knock: one transaction, of which only the success gives the order to act.
//!
//! Comparison, success and failure are decided by etcd in one step. No clock and no lease is part of the decision. An
//! outcome that is unknown is a refusal.

mod claimer;
mod outcome;
mod queue;

use spa_knock_core::crypto::Fingerprint;

pub use claimer::Claimer;
pub use outcome::ClaimOutcome;
pub use queue::{ClaimQueue, MOST_IN_BATCH, MOST_WAITING, QueueFull};

use crate::client::{Compare, Txn, TxnOp};
use crate::keys::{ClaimKey, Hex, KeySpace, SeedId, StoreKey};
use crate::names::MemberName;

/// Who claims: written into every claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// The member.
    pub member: MemberName,
    /// The boot of its host.
    pub boot: [u8; 16],
}

/// A random number that only this attempt to claim a knock has: it recognizes its own claim after a lost answer.
pub type AttemptId = [u8; 16];

/// A knock that its keeper has decided to grant. It is decided once: it is not `Clone`.
#[derive(Debug)]
pub struct KnockClaim {
    /// Which knock.
    pub key: ClaimKey,
    /// A new random number.
    pub attempt: AttemptId,
    /// The one-time password that it uses.
    pub code: Option<CodeUse>,
    /// The limited use that it counts.
    pub uses: Option<CountedUse>,
}

/// A one-time password is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeUse {
    /// The seed.
    pub seed: SeedId,
    /// The time step of the password.
    pub step: u64,
}

/// One of a limited number of uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedUse {
    /// The key that is limited.
    pub fingerprint: Fingerprint,
    /// How many uses the member knows of. The store's count replaces it.
    pub known: u64,
    /// How many are allowed.
    pub limit: u64,
}

impl KnockClaim {
    /// The claim's value: member, boot and attempt.
    fn value(&self, claimant: &Claimant) -> String {
        format!("{} {} {}", claimant.member, Hex(&claimant.boot), Hex(&self.attempt))
    }

    /// The transaction of one claim, which is nested in another one with those of other claims.
    fn txn(&self, space: &KeySpace, claimant: &Claimant) -> Txn {
        let claim = space.path(&StoreKey::Claim(self.key));
        let floor = space.path(&StoreKey::Floor);
        let timestamp = crate::floor::value(self.key.timestamp);
        let mut txn = Txn {
            compare: vec![Compare::absent(claim.as_str()), Compare::value_below(floor.as_str(), timestamp)],
            success: vec![TxnOp::put(claim.as_str(), self.value(claimant))],
            failure: vec![TxnOp::read(claim), TxnOp::read(floor)],
        };
        if let Some(code) = self.code {
            let key = space.path(&StoreKey::Otp(code.seed));
            txn.compare.push(Compare::value_below(key.as_str(), number(code.step)));
            txn.success.push(TxnOp::put(key.as_str(), number(code.step)));
            txn.failure.push(TxnOp::read(key));
        }
        if let Some(uses) = self.uses {
            let key = space.path(&StoreKey::Uses(uses.fingerprint));
            txn.compare.push(Compare::value_is(key.as_str(), number(uses.expected())));
            txn.success.push(TxnOp::put(key.as_str(), number(uses.expected().saturating_add(1))));
            txn.failure.push(TxnOp::read(key));
        }
        txn
    }

    /// The keys that it writes. etcd rejects a transaction that writes a key twice, and compares before it writes, so
    /// that two claims with a key in common must not be in one transaction.
    fn written(&self) -> impl Iterator<Item = StoreKey> {
        let code = self.code.map(|code| StoreKey::Otp(code.seed));
        let uses = self.uses.map(|uses| StoreKey::Uses(uses.fingerprint));
        [Some(StoreKey::Claim(self.key)), code, uses].into_iter().flatten()
    }
}

impl CountedUse {
    /// The count before this use: never the limit itself, so that the store's count can't exceed the limit. Callers have
    /// checked that the limit is not 0.
    fn expected(&self) -> u64 {
        self.known.min(self.limit.saturating_sub(1))
    }
}

/// A number as a value in the store.
#[must_use]
pub fn number(number: u64) -> String {
    format!("{number:016x}")
}

/// The first value of `otp/` (0) or `uses/` of a client that gets a seed or a limit: only if there is none. Where it is
/// missing, claims fail.
#[must_use]
pub fn create_counter(space: &KeySpace, key: &StoreKey, first: u64) -> Txn {
    let path = space.path(key);
    Txn {
        compare: vec![Compare::absent(path.as_str())],
        success: vec![TxnOp::put(path.as_str(), number(first))],
        failure: vec![TxnOp::read(path)],
    }
}
