//! What became of a claim.

use super::{Claimant, KnockClaim};
use crate::client::{StoreFault, TxnResponse, TxnResult};
use crate::keys::{StoreKey, hex16};
use crate::names::MemberName;

/// What became of a claim. Only [`ClaimOutcome::acts`] gives the order to act.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum ClaimOutcome {
    /// This attempt has claimed the knock: act.
    Won,
    /// This attempt had claimed the knock already; the answer had been lost: act.
    Mine,
    /// Another attempt has claimed the knock: reply nothing, the other one does.
    LostTo(MemberName),
    /// The knock is older than what the fleet remembers.
    BelowFloor,
    /// The one-time password, or a later one, was used.
    CodeUsed,
    /// All uses are used up.
    UsesGone,
    /// The store has no such key, which setting up the fleet or adding the client writes: it was wiped, or is another one.
    Missing(StoreKey),
    /// No answer, or none that is understood: refuse. The store may still carry it out; then no one acts on it.
    Unknown(StoreFault),
}

/// What the answer to one claim means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Final(ClaimOutcome),
    /// The count of uses was another one: ask again with this one.
    Uses(u64),
}

impl ClaimOutcome {
    /// Whether the knock must be acted on.
    #[must_use]
    pub const fn acts(&self) -> bool {
        matches!(self, Self::Won | Self::Mine)
    }

    /// The name in metrics and audit records.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Won | Self::Mine => "won",
            Self::LostTo(_) => "lost",
            Self::BelowFloor => "below-floor",
            Self::CodeUsed => "code-used",
            Self::UsesGone => "uses-gone",
            Self::Missing(_) => "missing",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Reads the answer to one claim.
pub(super) fn read(claim: &KnockClaim, claimant: &Claimant, response: &TxnResponse) -> Answer {
    Answer::Final(if response.succeeded {
        ClaimOutcome::Won
    } else {
        match refusal(claim, claimant, response) {
            Ok(answer) => return answer,
            Err(fault) => ClaimOutcome::Unknown(StoreFault::Invalid(fault.to_owned())),
        }
    })
}

fn refusal(claim: &KnockClaim, claimant: &Claimant, response: &TxnResponse) -> Result<Answer, &'static str> {
    let mut values = response.responses.iter().map(|result| match result {
        TxnResult::Range(range) => Ok(range.kvs.first().map(|found| found.value.as_slice())),
        _ => Err("not a read"),
    });
    let mut next = || values.next().unwrap_or(Err("a read is missing"));
    if let Some(value) = next()? {
        if value == claim.value(claimant).as_bytes() {
            return Ok(Answer::Final(ClaimOutcome::Mine));
        }
        let text = std::str::from_utf8(value).map_err(|_| "a claim is not text")?;
        let member = text.split(' ').next().and_then(|name| name.parse().ok());
        return Ok(Answer::Final(ClaimOutcome::LostTo(member.ok_or("a claim names no member")?)));
    }
    let mut number = |key: StoreKey| match next()? {
        None => Ok(Err(Answer::Final(ClaimOutcome::Missing(key)))),
        Some(value) => hex16(value).map(Ok).ok_or("a value is not 16 hex digits"),
    };
    match number(StoreKey::Floor)? {
        Err(missing) => return Ok(missing),
        Ok(floor) if floor >= claim.key.timestamp.as_millis() => {
            return Ok(Answer::Final(ClaimOutcome::BelowFloor));
        }
        Ok(_) => {}
    }
    if let Some(code) = claim.code {
        match number(StoreKey::Otp(code.seed))? {
            Err(missing) => return Ok(missing),
            Ok(used) if used >= code.step => return Ok(Answer::Final(ClaimOutcome::CodeUsed)),
            Ok(_) => {}
        }
    }
    if let Some(uses) = claim.uses {
        match number(StoreKey::Uses(uses.fingerprint))? {
            Err(missing) => return Ok(missing),
            Ok(count) if count >= uses.limit => return Ok(Answer::Final(ClaimOutcome::UsesGone)),
            Ok(count) if count != uses.expected() => return Ok(Answer::Uses(count)),
            Ok(_) => {}
        }
    }
    Err("the claim failed without a reason")
}

#[cfg(test)]
mod tests {
    use spa_knock_core::auth::ReplayDomain;
    use spa_knock_core::crypto::Fingerprint;
    use spa_knock_core::knock::Timestamp;

    use super::super::{CodeUse, CountedUse, number};
    use super::*;
    use crate::client::{KeyValue, RangeResponse};
    use crate::keys::{ClaimKey, SeedId};

    fn claim() -> KnockClaim {
        KnockClaim {
            key: ClaimKey {
                timestamp: Timestamp::from_millis(100),
                fingerprint: Fingerprint::from_bytes([1; 8]),
                domain: ReplayDomain::Datagrams,
                id: [2; 12],
            },
            attempt: [3; 16],
            code: Some(CodeUse { seed: SeedId::from_bytes([4; 8]), step: 50 }),
            uses: Some(CountedUse { fingerprint: Fingerprint::from_bytes([1; 8]), known: 2, limit: 5 }),
        }
    }

    fn claimant() -> Claimant {
        Claimant { member: "a".parse().unwrap(), boot: [9; 16] }
    }

    fn failure(values: &[Option<String>]) -> TxnResponse {
        let range = |value: &Option<String>| {
            let kv = |value: &String| KeyValue { value: value.clone().into_bytes(), ..KeyValue::default() };
            TxnResult::Range(RangeResponse {
                kvs: value.iter().map(kv).collect(),
                ..RangeResponse::default()
            })
        };
        TxnResponse { responses: values.iter().map(range).collect(), ..TxnResponse::default() }
    }

    #[test]
    fn each_answer_has_its_outcome() {
        let [low, equal, used, count] = [99, 100, 50, 2].map(|n| Some(number(n)));
        let (own, other) = (Some(claim().value(&claimant())), Some(format!("b {} x", "0".repeat(32))));
        let another_attempt = Some(KnockClaim { attempt: [4; 16], ..claim() }.value(&claimant()));
        let seed = StoreKey::Otp(SeedId::from_bytes([4; 8]));
        let step = Some(number(49));
        let cases = [
            ([own, None, None, None], Answer::Final(ClaimOutcome::Mine)),
            ([other, equal.clone(), None, None], Answer::Final(ClaimOutcome::LostTo("b".parse().unwrap()))),
            ([another_attempt, None, None, None], Answer::Final(ClaimOutcome::LostTo("a".parse().unwrap()))),
            ([None, None, None, None], Answer::Final(ClaimOutcome::Missing(StoreKey::Floor))),
            ([None, equal, step.clone(), count.clone()], Answer::Final(ClaimOutcome::BelowFloor)),
            ([None, low.clone(), None, count.clone()], Answer::Final(ClaimOutcome::Missing(seed))),
            ([None, low.clone(), used, count.clone()], Answer::Final(ClaimOutcome::CodeUsed)),
            (
                [None, low.clone(), step.clone(), None],
                Answer::Final(ClaimOutcome::Missing(StoreKey::Uses(Fingerprint::from_bytes([1; 8])))),
            ),
            ([None, low.clone(), step.clone(), Some(number(5))], Answer::Final(ClaimOutcome::UsesGone)),
            ([None, low.clone(), step.clone(), Some(number(4))], Answer::Uses(4)),
        ];
        for (values, expected) in cases {
            assert_eq!(read(&claim(), &claimant(), &failure(&values)), expected, "{values:?}");
        }
        let won = TxnResponse { succeeded: true, ..TxnResponse::default() };
        assert_eq!(read(&claim(), &claimant(), &won), Answer::Final(ClaimOutcome::Won));
    }

    #[test]
    fn what_is_not_understood_is_never_won() {
        let [low, step, count] = [99, 49, 2].map(|n| Some(number(n)));
        let cases = [
            vec![],
            vec![None],
            vec![None, Some("99".to_owned()), step.clone(), count.clone()],
            vec![Some(String::new()), low.clone(), step.clone(), count.clone()],
            vec![None, low, step, count],
        ];
        for values in cases {
            let answer = read(&claim(), &claimant(), &failure(&values));
            assert!(matches!(answer, Answer::Final(ClaimOutcome::Unknown(_))), "{values:?}");
        }
    }
}
