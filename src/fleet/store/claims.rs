//! Claims knocks: what waits goes out together, one transaction after the other.

use std::sync::Arc;
use std::time::Duration;

use super::keeper_channel::{KeeperChannel, KeeperGone};
use super::mailbox::Mailbox;
use super::settings::prefixed;
use super::store_health::{StoreHealth, text};
use crate::fleet::ipc::{self, ClaimMessage, FromStore, OutcomeMessage};
use crate::os::clock;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Steady;
use spa_knock_fleet::claim::{ClaimOutcome, ClaimQueue, Claimant, Claimer, CodeUse, CountedUse, KnockClaim};
use spa_knock_fleet::client::{Patience, StoreClient, StoreFault};
use spa_knock_fleet::keys::{KeySpace, SeedId, StoreKey};

/// Between two looks at an empty queue.
const PAUSE: Duration = Duration::from_secs(60);

/// Claims that wait.
#[derive(Default)]
pub(super) struct ClaimDesk(Mailbox<ClaimQueue<ClaimTicket>>);

/// What the answer to a claim needs.
#[derive(Debug, Clone, Copy)]
struct ClaimTicket {
    ticket: u64,
    received: Steady,
}

/// The thread.
pub(super) struct ClaimThread {
    pub(super) keeper: Arc<KeeperChannel>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) client: Arc<StoreClient>,
    pub(super) desk: Arc<ClaimDesk>,
    pub(super) space: KeySpace,
    pub(super) claimant: Claimant,
}

/// The claim that a message means.
pub(super) fn parse(space: &KeySpace, message: &ClaimMessage) -> Option<KnockClaim> {
    let Some(StoreKey::Claim(key)) = prefixed(space, &message.key) else { return None };
    let code = match &message.code {
        Some((seed, step)) => {
            Some(CodeUse { seed: SeedId::from_bytes(ipc::array_from_hex(seed)?), step: *step })
        }
        None => None,
    };
    let uses = match &message.uses {
        Some((fingerprint, known, limit)) => Some(CountedUse {
            fingerprint: Fingerprint::from_bytes(ipc::array_from_hex(fingerprint)?),
            known: *known,
            limit: *limit,
        }),
        None => None,
    };
    Some(KnockClaim { key, attempt: ipc::array_from_hex(&message.attempt)?, code, uses })
}

impl ClaimDesk {
    /// Adds a claim.
    ///
    /// # Errors
    /// If too many wait; what to reply then.
    pub(super) fn push(&self, claim: KnockClaim, ticket: u64, now: Steady) -> Result<(), FromStore> {
        let waiting = ClaimTicket { ticket, received: now };
        self.0.change(|queue| queue.push(claim, waiting)).map_err(|full| FromStore::Claimed {
            ticket,
            outcome: OutcomeMessage::Unknown(full.to_string()),
            micros: 0,
        })
    }
}

impl ClaimThread {
    pub(super) fn run(self) -> KeeperGone {
        let claimer = Claimer::new(&self.client, self.space.clone(), self.claimant.clone());
        loop {
            let take = |queue: &mut ClaimQueue<_>| (!queue.is_empty()).then(|| queue.take_batch());
            let Some(batch) = self.desk.0.wait(PAUSE, take) else { continue };
            if let Err(gone) = self.decide(&claimer, batch) {
                return gone;
            }
        }
    }

    fn decide(&self, claimer: &Claimer<'_>, batch: Vec<(KnockClaim, ClaimTicket)>) -> Result<(), KeeperGone> {
        // The keeper has given up on those that waited for a store that does not answer.
        let begun = clock::steady();
        let is_late =
            |(_, waiting): &(_, ClaimTicket)| begun.since(waiting.received) >= Patience::CLAIM.total;
        let (late, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_late);
        for (_, waiting) in late {
            self.answer(
                waiting,
                ClaimOutcome::Unknown(StoreFault::Timeout(Patience::CLAIM.total.as_millis())),
            )?;
        }
        let (claims, tickets): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let outcomes = outcomes(claimer, claims);
        tickets.into_iter().zip(outcomes).try_for_each(|(waiting, outcome)| self.answer(waiting, outcome))
    }

    fn answer(&self, waiting: ClaimTicket, outcome: ClaimOutcome) -> Result<(), KeeperGone> {
        let now = clock::steady();
        match &outcome {
            ClaimOutcome::Unknown(fault) => self.health.record_fault(fault),
            _ => self.health.record_answer(now),
        }
        let micros = u64::try_from(now.since(waiting.received).as_micros()).unwrap_or(u64::MAX);
        self.keeper.send(&FromStore::Claimed { ticket: waiting.ticket, outcome: message(outcome), micros })
    }
}

#[cfg(not(feature = "always-won"))]
fn outcomes(claimer: &Claimer<'_>, claims: Vec<KnockClaim>) -> Vec<ClaimOutcome> {
    claimer.decide(claims)
}

/// A sabotaged build: the test of a fleet must find it out.
#[cfg(feature = "always-won")]
fn outcomes(_: &Claimer<'_>, claims: Vec<KnockClaim>) -> Vec<ClaimOutcome> {
    claims.iter().map(|_| ClaimOutcome::Won).collect()
}

fn message(outcome: ClaimOutcome) -> OutcomeMessage {
    match outcome {
        ClaimOutcome::Won | ClaimOutcome::Mine => OutcomeMessage::Won,
        ClaimOutcome::LostTo(member) => OutcomeMessage::Lost(member.to_string()),
        ClaimOutcome::BelowFloor => OutcomeMessage::BelowFloor,
        ClaimOutcome::CodeUsed => OutcomeMessage::CodeUsed,
        ClaimOutcome::UsesGone => OutcomeMessage::UsesGone,
        ClaimOutcome::Missing(key) => OutcomeMessage::Missing(key.to_string()),
        ClaimOutcome::Unknown(fault) => OutcomeMessage::Unknown(text(&fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> KeySpace {
        KeySpace::new(&"prod".parse().unwrap())
    }

    fn claim_message() -> ClaimMessage {
        ClaimMessage {
            ticket: 7,
            key: format!("claim/{:016x}/{}/0/{}", 5, "01".repeat(8), "02".repeat(12)),
            attempt: "03".repeat(16),
            code: Some(("04".repeat(8), 9)),
            uses: Some(("05".repeat(8), 2, 3)),
        }
    }

    #[test]
    fn a_claim_is_read_from_its_message() {
        let claim = parse(&space(), &claim_message()).unwrap();
        assert_eq!((claim.key.timestamp.as_millis(), claim.key.id, claim.attempt), (5, [2; 12], [3; 16]));
        let code = CodeUse { seed: SeedId::from_bytes([4; 8]), step: 9 };
        let uses = CountedUse { fingerprint: Fingerprint::from_bytes([5; 8]), known: 2, limit: 3 };
        assert_eq!((claim.code, claim.uses), (Some(code), Some(uses)));
    }

    #[test]
    fn a_message_that_is_no_claim_is_not_read() {
        let broken: [fn(&mut ClaimMessage); 6] = [
            |message| message.key = "floor".to_owned(),
            |message| message.key = format!("/spa-knock/1/prod/{}", message.key),
            |message| message.key.push('0'),
            |message| message.attempt.clear(),
            |message| message.code = Some(("04".to_owned(), 9)),
            |message| message.uses = Some((String::new(), 2, 3)),
        ];
        for (index, change) in broken.iter().enumerate() {
            let mut message = claim_message();
            change(&mut message);
            assert!(parse(&space(), &message).is_none(), "{index}");
        }
    }

    #[test]
    fn a_claim_for_which_there_is_no_room_is_refused_immediately() {
        let desk = ClaimDesk::default();
        let claim = || parse(&space(), &claim_message()).unwrap();
        for ticket in 0..256 {
            assert!(desk.push(claim(), ticket, clock::steady()).is_ok());
        }
        let outcome = OutcomeMessage::Unknown("the fleet store does not answer; try again".to_owned());
        let refused = FromStore::Claimed { ticket: 256, outcome, micros: 0 };
        assert_eq!(desk.push(claim(), 256, clock::steady()), Err(refused));
    }

    #[test]
    fn only_a_claim_that_was_won_is_reported_as_won() {
        let missing = StoreKey::Floor;
        let cases = [
            (ClaimOutcome::Won, OutcomeMessage::Won),
            (ClaimOutcome::Mine, OutcomeMessage::Won),
            (ClaimOutcome::LostTo("b2".parse().unwrap()), OutcomeMessage::Lost("b2".to_owned())),
            (ClaimOutcome::BelowFloor, OutcomeMessage::BelowFloor),
            (ClaimOutcome::CodeUsed, OutcomeMessage::CodeUsed),
            (ClaimOutcome::UsesGone, OutcomeMessage::UsesGone),
            (ClaimOutcome::Missing(missing), OutcomeMessage::Missing("floor".to_owned())),
            (
                ClaimOutcome::Unknown(StoreFault::Timeout(300)),
                OutcomeMessage::Unknown("no answer within 300 ms".to_owned()),
            ),
        ];
        for (outcome, expected) in cases {
            assert_eq!(outcome.acts(), expected == OutcomeMessage::Won);
            assert_eq!(message(outcome), expected);
        }
    }
}
