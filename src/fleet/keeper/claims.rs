//! Knocks that wait for the store, at most 256, and what became of earlier ones.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::control::status::{ClaimCount, ClaimTimes};
use crate::fleet::ipc::{ClaimMessage, OutcomeMessage, hex};
use crate::fleet::uses_id;
use crate::ipc::ReplyPath;
use spa_knock_core::auth::{Acceptance, Authorized, ClaimNote};
use spa_knock_core::crypto::{RandomError, random};
use spa_knock_core::knock::Steady;
use spa_knock_fleet::keys::{ClaimKey, SeedId, StoreKey};

/// So many knocks wait at most; more are refused.
const MOST_WAITING: usize = 256;
/// So many of one client: it cannot take the room of all others while the store is slow.
const MOST_OF_CLIENT: usize = 16;
/// Longer than the store process tries: its answer, even if it is that there is none, comes first.
const WAIT_MAX: Duration = Duration::from_millis(1_500);
/// One step of a one-time password, in milliseconds.
const CODE_STEP_MS: u64 = 30_000;
/// Over so many claims the median is computed.
const RECENT: usize = 256;
/// The upper limits of the histogram, in microseconds.
const BUCKETS: [u64; 9] = [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 300_000, 1_000_000];

/// A knock that acts only if its claim is won.
pub(crate) struct PendingKnock {
    pub(crate) authorized: Authorized,
    /// The one-time password that it uses.
    pub(crate) code: Option<Acceptance>,
    /// How many uses the client has had, this one not included, and how many it has.
    pub(crate) uses: Option<(u64, u64)>,
    pub(crate) reply_path: ReplyPath,
}

/// A knock and what became of its claim.
pub(crate) struct ClaimedKnock {
    pub(crate) knock: PendingKnock,
    pub(crate) outcome: OutcomeMessage,
    /// How long it took, if the store was asked.
    pub(crate) micros: Option<u64>,
}

/// The waiting knocks, by ticket. Tickets rise, and so do the times at which they have waited too long.
#[derive(Default)]
pub(crate) struct WaitingClaims {
    waiting: BTreeMap<u64, (Steady, PendingKnock)>,
    last: u64,
}

impl WaitingClaims {
    /// Makes a knock wait. Returns what to send to the store process.
    ///
    /// # Errors
    /// The knock and the reason why it cannot be claimed.
    #[expect(clippy::result_large_err, reason = "the knock is not moved far")]
    pub(crate) fn add(
        &mut self,
        knock: PendingKnock,
        now: Steady,
    ) -> Result<ClaimMessage, (PendingKnock, String)> {
        if self.waiting.len() >= MOST_WAITING {
            return Err((knock, format!("{MOST_WAITING} knocks wait for the store already")));
        }
        let client = knock.authorized.context().client();
        let of_client =
            self.waiting.values().filter(|(_, waiting)| waiting.authorized.context().client() == client);
        if of_client.count() >= MOST_OF_CLIENT {
            return Err((
                knock,
                format!("{MOST_OF_CLIENT} knocks of this client wait for the store already"),
            ));
        }
        let ticket = self.last.saturating_add(1);
        let message = match message_for(&knock, ticket) {
            Ok(message) => message,
            Err(RandomError) => {
                return Err((knock, "the system's random number generator failed".to_owned()));
            }
        };
        self.last = ticket;
        self.waiting.insert(ticket, (now.plus(WAIT_MAX), knock));
        Ok(message)
    }

    /// Takes out the knock of an answer; none if it has waited too long.
    pub(crate) fn take(&mut self, ticket: u64) -> Option<PendingKnock> {
        self.waiting.remove(&ticket).map(|(_, knock)| knock)
    }

    /// Takes out a knock that has waited too long.
    pub(crate) fn take_due(&mut self, now: Steady) -> Option<PendingKnock> {
        let first = self.waiting.first_entry().filter(|first| first.get().0 <= now)?;
        Some(first.remove().1)
    }

    /// Takes out a knock, because no answer will come.
    pub(crate) fn take_any(&mut self) -> Option<PendingKnock> {
        self.waiting.pop_first().map(|(_, (_, knock))| knock)
    }

    /// When the first one has waited too long.
    pub(crate) fn deadline(&self) -> Option<Steady> {
        self.waiting.first_key_value().map(|(_, (due, _))| *due)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn message_for(knock: &PendingKnock, ticket: u64) -> Result<ClaimMessage, RandomError> {
    let context = knock.authorized.context();
    let (fingerprint, id) = context.knock();
    let (domain, timestamp) = context.moment();
    let key = StoreKey::Claim(ClaimKey { timestamp, fingerprint, domain, id });
    let attempt: [u8; 16] = random()?;
    let code = knock.code.map(|code| {
        let seed = SeedId::from_bytes(*code.key.as_bytes());
        let step = code.timestamp.as_millis().checked_div(CODE_STEP_MS).unwrap_or_default();
        (StoreKey::Otp(seed).to_string().split_off("otp/".len()), step)
    });
    let uses = knock.uses.map(|(known, limit)| (uses_id(context.client()).to_string(), known, limit));
    Ok(ClaimMessage { ticket, key: key.to_string(), attempt: hex(&attempt), code, uses })
}

impl OutcomeMessage {
    /// The name in metrics and audit records.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost(_) => "lost",
            Self::BelowFloor => "below-floor",
            Self::CodeUsed => "code-used",
            Self::UsesGone => "uses-gone",
            Self::Missing(_) => "missing",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl ClaimedKnock {
    /// What the audit record states about it.
    pub(crate) const fn note(&self) -> ClaimNote {
        ClaimNote { result: self.outcome.name(), micros: self.micros }
    }
}

/// What became of the claims since the start, and how long they took.
#[derive(Default)]
pub(crate) struct ClaimStats {
    counts: BTreeMap<&'static str, u64>,
    buckets: [u64; BUCKETS.len()],
    timed: u64,
    total_us: u64,
    recent: VecDeque<u64>,
}

impl ClaimStats {
    /// Counts an outcome by its name.
    pub(crate) fn count(&mut self, name: &'static str) {
        let count = self.counts.entry(name).or_default();
        *count = count.saturating_add(1);
    }

    /// Records how long the store took to answer.
    pub(crate) fn time(&mut self, micros: u64) {
        for (bucket, limit) in self.buckets.iter_mut().zip(BUCKETS) {
            if micros <= limit {
                *bucket = bucket.saturating_add(1);
            }
        }
        self.timed = self.timed.saturating_add(1);
        self.total_us = self.total_us.saturating_add(micros);
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(micros);
    }

    /// The counts, for the status.
    pub(crate) fn counts(&self) -> Vec<ClaimCount> {
        // These are listed although they are 0.
        let usual = ["won", "lost", "unknown"].map(|name| (name, 0));
        let mut all: BTreeMap<&str, u64> = usual.into();
        all.extend(self.counts.iter().map(|(name, count)| (*name, *count)));
        all.into_iter().map(|(result, count)| ClaimCount { result: result.to_owned(), count }).collect()
    }

    /// The times, for the status.
    pub(crate) fn times(&self) -> ClaimTimes {
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let middle = sorted.len().checked_div(2).and_then(|middle| sorted.get(middle).copied());
        ClaimTimes {
            median_us: middle,
            buckets: BUCKETS.into_iter().zip(self.buckets).collect(),
            count: self.timed,
            total_us: self.total_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_all_buckets_above_them_and_the_median_is_of_recent_ones() {
        let mut stats = ClaimStats::default();
        assert_eq!(stats.times().median_us, None);
        for micros in [900, 2_400, 2_600, 700_000, 2_000_000] {
            stats.time(micros);
        }
        let times = stats.times();
        assert_eq!((times.median_us, times.count, times.total_us), (Some(2_600), 5, 2_705_900));
        let counts: Vec<u64> = times.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 2, 3, 3, 3, 3, 3, 3, 4]);
        (0..1_000).for_each(|_| stats.time(1_500));
        assert_eq!(stats.times().median_us, Some(1_500));
    }

    #[test]
    fn the_usual_results_are_listed_although_they_are_zero() {
        let mut stats = ClaimStats::default();
        stats.count("won");
        stats.count("missing");
        let counts: Vec<_> =
            stats.counts().into_iter().map(|counted| (counted.result, counted.count)).collect();
        let expected = [("lost", 0), ("missing", 1), ("unknown", 0), ("won", 1)];
        assert_eq!(counts, expected.map(|(name, count)| (name.to_owned(), count)));
    }
}
