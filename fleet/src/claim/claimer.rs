//! Sends claims to the store and returns what became of them. Runs in the store process.

use spa_knock_core::knock::Timestamp;

use super::outcome::{Answer, ClaimOutcome, read};
use super::{Claimant, KnockClaim};
use crate::client::{Deadline, Patience, StoreClient, StoreFault, Txn, TxnOp, TxnResponse, TxnResult};
use crate::floor;
use crate::keys::{KeySpace, StoreKey};

/// How often a claim is sent again because the store has counted other uses in the meantime.
const MOST_ROUNDS: usize = 8;

/// Claims knocks for one member.
pub struct Claimer<'a> {
    client: &'a StoreClient,
    space: KeySpace,
    claimant: Claimant,
}

impl<'a> Claimer<'a> {
    /// Claims with this client in this fleet.
    #[must_use]
    pub const fn new(client: &'a StoreClient, space: KeySpace, claimant: Claimant) -> Self {
        Self { client, space, claimant }
    }

    /// Claims knocks in one transaction, within 1,000 ms. The outcomes are in the order of the claims, which must come
    /// from [`super::ClaimQueue::take_batch`].
    pub fn decide(&self, claims: Vec<KnockClaim>) -> Vec<ClaimOutcome> {
        let deadline = Deadline::within(Patience::CLAIM.total);
        let unknown = || ClaimOutcome::Unknown(StoreFault::Timeout(Patience::CLAIM.total.as_millis()));
        let mut outcomes: Vec<Option<ClaimOutcome>> = claims.iter().map(refused_in_advance).collect();
        let mut claims = claims;
        for _ in 0..MOST_ROUNDS {
            let open: Vec<_> =
                claims.iter_mut().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none()).collect();
            if open.is_empty() {
                break;
            }
            self.round(open, deadline);
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect()
    }

    fn round(&self, mut open: Vec<(&mut KnockClaim, &mut Option<ClaimOutcome>)>, deadline: Deadline) {
        match self.send(open.iter().map(|(claim, _)| &**claim), deadline) {
            Ok(answers) => {
                for ((claim, outcome), answer) in open.iter_mut().zip(answers) {
                    record(claim, outcome, answer);
                }
            }
            // One claim can make the store reject all of them: each alone.
            Err(fault) if open.len() > 1 && is_of_one(&fault) => {
                for (claim, outcome) in open {
                    match self.send(std::iter::once(&*claim), deadline) {
                        Ok(answers) => answers.into_iter().for_each(|answer| record(claim, outcome, answer)),
                        Err(fault) => *outcome = Some(ClaimOutcome::Unknown(fault)),
                    }
                }
            }
            Err(fault) => {
                for (_, outcome) in open {
                    *outcome = Some(ClaimOutcome::Unknown(fault.clone()));
                }
            }
        }
    }

    /// Sends claims in one transaction and reads one answer for each.
    fn send<'c>(
        &self,
        claims: impl Iterator<Item = &'c KnockClaim> + Clone,
        deadline: Deadline,
    ) -> Result<Vec<Answer>, StoreFault> {
        let total = deadline.left().unwrap_or_default();
        let before = self.client.mark().map(|mark| mark.floor());
        let nested: Vec<_> =
            claims.clone().map(|claim| TxnOp::Txn(claim.txn(&self.space, &self.claimant))).collect();
        let expected = nested.len();
        let response = self
            .client
            .txn(&Txn::unconditional(nested), Patience { total, ..Patience::CLAIM })
            .map_err(|error| error.fault().clone())?;
        let answers: Vec<_> = claims
            .zip(&response.responses)
            .map_while(|(claim, result)| match result {
                TxnResult::Txn(response) => Some((claim, response)),
                _ => None,
            })
            .collect();
        if answers.len() != expected {
            return Err(StoreFault::Invalid("not one answer for each claim".to_owned()));
        }
        for (_, response) in &answers {
            self.record_floor(response, before)?;
        }
        Ok(answers.into_iter().map(|(claim, response)| read(claim, &self.claimant, response)).collect())
    }

    /// A floor that fell shows that the store went back.
    fn record_floor(&self, response: &TxnResponse, before: Option<Timestamp>) -> Result<(), StoreFault> {
        let (Some(before), false) = (before, response.succeeded) else { return Ok(()) };
        let key = self.space.path(&StoreKey::Floor);
        let found = response.responses.iter().find_map(|result| match result {
            TxnResult::Range(range) => range.kvs.first().filter(|found| found.key == key.as_bytes()),
            _ => None,
        });
        let Some(floor) = found.and_then(|found| floor::parse_value(&found.value)) else { return Ok(()) };
        self.client.record_floor(floor, before).map_err(|error| error.fault().clone())
    }
}

fn refused_in_advance(claim: &KnockClaim) -> Option<ClaimOutcome> {
    claim.uses.filter(|uses| uses.limit == 0).map(|_| ClaimOutcome::UsesGone)
}

fn record(claim: &mut KnockClaim, outcome: &mut Option<ClaimOutcome>, answer: Answer) {
    match answer {
        Answer::Final(decided) => *outcome = Some(decided),
        Answer::Uses(count) => {
            if let Some(uses) = &mut claim.uses {
                uses.known = count;
            }
        }
    }
}

/// Whether the store may have rejected a transaction because of one of the claims in it.
const fn is_of_one(fault: &StoreFault) -> bool {
    matches!(fault, StoreFault::Other(_))
}
