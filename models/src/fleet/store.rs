//! The store: each transaction is applied at one instant, or not at all.

use super::member::Attempt;
use super::variant::Variant;
use super::{TIMESTAMPS, Time};

/// The store's content.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Store {
    pub(super) floor: Time,
    /// By which attempt each knock is claimed.
    pub(super) claims: [Option<Claimant>; TIMESTAMPS.len()],
    /// The number of writes. Counted only if a restored store is recognized by it.
    pub(super) revision: u8,
    /// The cluster id: another one after a restore.
    pub(super) generation: u8,
}

/// The value of a claim: what a member recognizes its own attempt by.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    pub(super) member: usize,
    pub(super) process: usize,
}

impl Claimant {
    /// Any attempt that waits no longer.
    pub(super) const SETTLED: Self = Self { member: usize::MAX, process: 0 };
}

/// The outcome of a transaction.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The claim is this attempt's.
    Won,
    /// Another attempt's, or at or below the floor.
    Lost,
}

/// A response of the store.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Response {
    pub(super) attempt: Attempt,
    pub(super) outcome: Outcome,
    pub(super) revision: u8,
    pub(super) generation: u8,
}

impl Store {
    pub(super) const fn new() -> Self {
        Self { floor: -1, claims: [None; TIMESTAMPS.len()], revision: 0, generation: 0 }
    }

    /// Applies the transaction of an attempt.
    pub(super) fn claim(&mut self, attempt: Attempt, variant: Variant) -> Response {
        let claimant = Claimant {
            member: attempt.member,
            process: if variant == Variant::AttemptsRepeat { 0 } else { attempt.process },
        };
        let is_above = TIMESTAMPS[attempt.knock] > self.floor || variant == Variant::ClaimWithoutFloor;
        let claim = &mut self.claims[attempt.knock];
        let is_new = claim.is_none() && is_above;
        if is_new {
            *claim = Some(claimant);
        }
        let is_won = variant == Variant::AlwaysWon || *claim == Some(claimant);
        if is_new {
            self.write(variant);
        }
        let outcome = if is_won { Outcome::Won } else { Outcome::Lost };
        Response { attempt, outcome, revision: self.revision, generation: self.generation }
    }

    /// Raises the floor and deletes the claims at or below it.
    pub(super) fn collect(&mut self, to: Time, variant: Variant) {
        for (knock, timestamp) in TIMESTAMPS.iter().enumerate() {
            if *timestamp <= to {
                self.claims[knock] = None;
            }
        }
        if variant != Variant::GarbageWithoutFloor {
            self.floor = self.floor.max(to);
        }
        self.write(variant);
    }

    pub(super) fn write(&mut self, variant: Variant) {
        if variant == Variant::RestoreSeenByRevision {
            self.revision += 1;
        }
    }
}
