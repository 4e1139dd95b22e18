//! The answers of the last seconds: a client that resends gets the same bytes again and no second action.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::replay::KnockKey;
use crate::knock::Steady;

/// For how long an answer is kept, from the knock's first copy on.
const FOR: Duration = Duration::from_secs(10);
/// How often one knock is answered in all.
const TIMES_MAX: u8 = 4;
/// Only accepted knocks and address refusals get in; this bounds a flood of the latter.
const ANSWERS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(in crate::auth) struct ReplyCache(VecDeque<CachedReply>);

#[derive(Debug)]
struct CachedReply {
    knock: KnockKey,
    source: SocketAddr,
    first: Steady,
    times: u8,
    /// Missing as long as there is none.
    bytes: Option<Vec<u8>>,
}

/// Whether a knock was answered before.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) enum CacheLookup {
    /// Never, to this address and port.
    Never,
    /// Yes: the same again.
    Again(Vec<u8>),
    /// As often as one knock is, or it will be.
    Enough,
}

impl ReplyCache {
    /// Whether this knock from this source was answered; counts as one more answer if so.
    pub(in crate::auth) fn lookup(
        &mut self,
        knock: KnockKey,
        source: SocketAddr,
        now: Steady,
    ) -> CacheLookup {
        while self.0.front().is_some_and(|kept| now.since(kept.first) >= FOR) {
            self.0.pop_front();
        }
        let same = |kept: &&mut CachedReply| kept.knock == knock && kept.source == source;
        let Some(kept) = self.0.iter_mut().find(same) else { return CacheLookup::Never };
        match &kept.bytes {
            Some(bytes) if kept.times < TIMES_MAX => {
                kept.times = kept.times.saturating_add(1);
                CacheLookup::Again(bytes.clone())
            }
            _ => CacheLookup::Enough,
        }
    }

    /// Notes that the first answer to a knock takes a while.
    pub(in crate::auth) fn reserve(&mut self, knock: KnockKey, source: SocketAddr, now: Steady) {
        self.add(CachedReply { knock, source, first: now, times: 0, bytes: None });
    }

    /// Keeps the first answer to a knock, or the last one, in place of the first.
    pub(in crate::auth) fn store(
        &mut self,
        knock: KnockKey,
        source: SocketAddr,
        now: Steady,
        bytes: Vec<u8>,
    ) {
        let place = self.0.iter().position(|kept| kept.knock == knock && kept.source == source);
        match place.and_then(|place| self.0.get_mut(place)) {
            Some(promised) if promised.bytes.is_none() => (promised.bytes, promised.times) = (Some(bytes), 1),
            Some(_) => {
                place.and_then(|place| self.0.remove(place));
                // Sent by itself twice.
                self.add(CachedReply { knock, source, first: now, times: 2, bytes: Some(bytes) });
            }
            None => self.add(CachedReply { knock, source, first: now, times: 1, bytes: Some(bytes) }),
        }
    }

    fn add(&mut self, kept: CachedReply) {
        if self.0.len() >= ANSWERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Fingerprint;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn a_knock_is_answered_four_times_within_ten_seconds_to_one_source_only() {
        let mut answers = ReplyCache::default();
        let source: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let [knock, of_another] = [1, 2].map(|key| (Fingerprint::from_bytes([key; 8]), [1; 12]));
        assert_eq!(answers.lookup(knock, source, at(0)), CacheLookup::Never);
        answers.store(knock, source, at(0), vec![7]);
        for _ in 0..3 {
            assert_eq!(answers.lookup(knock, source, at(9)), CacheLookup::Again(vec![7]));
        }
        assert_eq!(answers.lookup(knock, source, at(9)), CacheLookup::Enough);
        assert_eq!(answers.lookup(of_another, source, at(9)), CacheLookup::Never, "another client's nonce");
        for other in ["10.0.0.1:4001", "10.0.0.2:4000"] {
            assert_eq!(answers.lookup(knock, other.parse().unwrap(), at(9)), CacheLookup::Never);
        }
        assert_eq!(answers.lookup(knock, source, at(10)), CacheLookup::Never);
        assert!(answers.0.is_empty());
    }

    #[test]
    fn the_last_answer_takes_the_place_of_the_first_for_ten_seconds_more() {
        let mut answers = ReplyCache::default();
        let source = "10.0.0.1:4000".parse().unwrap();
        let [knock, other] = [1, 2].map(|key| (Fingerprint::from_bytes([key; 8]), [1; 12]));
        answers.store(knock, source, at(0), vec![7]);
        answers.store(other, source, at(1), vec![7]);
        answers.store(knock, source, at(8), vec![8]);
        for _ in 0..2 {
            assert_eq!(answers.lookup(knock, source, at(17)), CacheLookup::Again(vec![8]));
        }
        assert_eq!(answers.lookup(knock, source, at(17)), CacheLookup::Enough);
        assert_eq!(answers.0.len(), 1, "the other one is forgotten");
        assert_eq!(answers.lookup(knock, source, at(18)), CacheLookup::Never);
    }

    #[test]
    fn copies_of_a_knock_that_will_be_answered_later_get_nothing_until_then() {
        let mut answers = ReplyCache::default();
        let source = "10.0.0.1:4000".parse().unwrap();
        let knock = (Fingerprint::from_bytes([1; 8]), [1; 12]);
        answers.reserve(knock, source, at(0));
        assert_eq!(answers.lookup(knock, source, at(1)), CacheLookup::Enough);
        answers.store(knock, source, at(1), vec![7]);
        for _ in 0..3 {
            assert_eq!(answers.lookup(knock, source, at(9)), CacheLookup::Again(vec![7]));
        }
        assert_eq!(answers.lookup(knock, source, at(9)), CacheLookup::Enough);
        assert_eq!(answers.lookup(knock, source, at(10)), CacheLookup::Never);
    }
}
