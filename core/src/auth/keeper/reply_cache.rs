//! The replies of the last seconds: a client that resends a knock gets the same bytes again, without a second action.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::replay::KnockKey;
use crate::knock::Steady;

/// How long a reply is kept, counted from the first datagram of the knock.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How often one knock gets a reply in total.
const TIMES_MAX: u8 = 4;
/// Only accepted knocks and address refusals are cached; this limits a flood of the latter.
const REPLIES_MAX: usize = 1024;
/// The same for the knocks of one key, so that they do not displace the replies to other clients.
const OF_KEY_MAX: usize = 128;

#[derive(Debug, Default)]
pub(in crate::auth) struct ReplyCache(VecDeque<CachedReply>);

#[derive(Debug)]
struct CachedReply {
    knock: KnockKey,
    source: SocketAddr,
    first: Steady,
    times: u8,
    /// `None` until there is a reply.
    bytes: Option<Vec<u8>>,
}

/// Whether the cache has a reply to a knock.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) enum CacheLookup {
    /// The knock is unknown from this address and port.
    Unknown,
    /// Send this reply again.
    Resend(Vec<u8>),
    /// Send nothing: the maximum number of replies has been sent, or the reply will follow later.
    Ignore,
}

impl ReplyCache {
    /// Looks up the reply to this knock from this source. A reply that must be resent counts as sent.
    pub(in crate::auth) fn lookup(
        &mut self,
        knock: KnockKey,
        source: SocketAddr,
        now: Steady,
    ) -> CacheLookup {
        while self.0.front().is_some_and(|kept| now.since(kept.first) >= KEPT_FOR) {
            self.0.pop_front();
        }
        let same = |kept: &&mut CachedReply| kept.knock == knock && kept.source == source;
        let Some(kept) = self.0.iter_mut().find(same) else { return CacheLookup::Unknown };
        match &kept.bytes {
            Some(bytes) if kept.times < TIMES_MAX => {
                kept.times = kept.times.saturating_add(1);
                CacheLookup::Resend(bytes.clone())
            }
            _ => CacheLookup::Ignore,
        }
    }

    /// Notes that the first reply to a knock will follow later.
    pub(in crate::auth) fn reserve(&mut self, knock: KnockKey, source: SocketAddr, now: Steady) {
        self.add(CachedReply { knock, source, first: now, times: 0, bytes: None });
    }

    /// Stores the first reply to a knock, or the final one in place of the first.
    pub(in crate::auth) fn store(
        &mut self,
        knock: KnockKey,
        source: SocketAddr,
        now: Steady,
        bytes: Vec<u8>,
    ) {
        let place = self.0.iter().position(|kept| kept.knock == knock && kept.source == source);
        match place.and_then(|place| self.0.get_mut(place)) {
            Some(reserved) if reserved.bytes.is_none() => (reserved.bytes, reserved.times) = (Some(bytes), 1),
            Some(_) => {
                place.and_then(|place| self.0.remove(place));
                // Two replies have been sent without a resend.
                self.add(CachedReply { knock, source, first: now, times: 2, bytes: Some(bytes) });
            }
            None => self.add(CachedReply { knock, source, first: now, times: 1, bytes: Some(bytes) }),
        }
    }

    fn add(&mut self, kept: CachedReply) {
        let mut of_key = self.0.iter().enumerate().filter(|(_, other)| other.knock.0 == kept.knock.0);
        let oldest = of_key.next().map(|(place, _)| place);
        if of_key.count() >= OF_KEY_MAX.saturating_sub(1) {
            oldest.and_then(|oldest| self.0.remove(oldest));
        }
        if self.0.len() >= REPLIES_MAX {
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
    fn a_knock_gets_four_replies_within_ten_seconds_to_one_source_only() {
        let mut cache = ReplyCache::default();
        let source: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let [knock, of_another] = [1, 2].map(|key| (Fingerprint::from_bytes([key; 8]), [1; 12]));
        assert_eq!(cache.lookup(knock, source, at(0)), CacheLookup::Unknown);
        cache.store(knock, source, at(0), vec![7]);
        for _ in 0..3 {
            assert_eq!(cache.lookup(knock, source, at(9)), CacheLookup::Resend(vec![7]));
        }
        assert_eq!(cache.lookup(knock, source, at(9)), CacheLookup::Ignore);
        assert_eq!(cache.lookup(of_another, source, at(9)), CacheLookup::Unknown, "another client's nonce");
        for other in ["10.0.0.1:4001", "10.0.0.2:4000"] {
            assert_eq!(cache.lookup(knock, other.parse().unwrap(), at(9)), CacheLookup::Unknown);
        }
        assert_eq!(cache.lookup(knock, source, at(10)), CacheLookup::Unknown);
        assert!(cache.0.is_empty());
    }

    #[test]
    fn the_final_reply_replaces_the_first_for_another_ten_seconds() {
        let mut cache = ReplyCache::default();
        let source = "10.0.0.1:4000".parse().unwrap();
        let [knock, other] = [1, 2].map(|key| (Fingerprint::from_bytes([key; 8]), [1; 12]));
        cache.store(knock, source, at(0), vec![7]);
        cache.store(other, source, at(1), vec![7]);
        cache.store(knock, source, at(8), vec![8]);
        for _ in 0..2 {
            assert_eq!(cache.lookup(knock, source, at(17)), CacheLookup::Resend(vec![8]));
        }
        assert_eq!(cache.lookup(knock, source, at(17)), CacheLookup::Ignore);
        assert_eq!(cache.0.len(), 1, "the other one is forgotten");
        assert_eq!(cache.lookup(knock, source, at(18)), CacheLookup::Unknown);
    }

    #[test]
    fn many_knocks_of_one_key_displace_only_their_own_replies() {
        let mut cache = ReplyCache::default();
        let source = "10.0.0.1:4000".parse().unwrap();
        let knock = |key: u8, id: u16| {
            let mut nonce = [0; 12];
            nonce[..2].copy_from_slice(&id.to_be_bytes());
            (Fingerprint::from_bytes([key; 8]), nonce)
        };
        cache.store(knock(1, 0), source, at(0), vec![7]);
        for id in 0..5_000 {
            cache.store(knock(2, id), source, at(1), vec![8]);
        }
        assert_eq!(cache.0.len(), 1 + OF_KEY_MAX);
        assert_eq!(cache.lookup(knock(1, 0), source, at(2)), CacheLookup::Resend(vec![7]));
        assert_eq!(cache.lookup(knock(2, 4_999), source, at(2)), CacheLookup::Resend(vec![8]));
        assert_eq!(cache.lookup(knock(2, 0), source, at(2)), CacheLookup::Unknown);
        for key in 3..30 {
            (0..500).for_each(|id| cache.store(knock(key, id), source, at(2), vec![9]));
        }
        assert_eq!(cache.0.len(), REPLIES_MAX);
    }

    #[test]
    fn resends_of_a_knock_with_a_later_reply_get_nothing_until_then() {
        let mut cache = ReplyCache::default();
        let source = "10.0.0.1:4000".parse().unwrap();
        let knock = (Fingerprint::from_bytes([1; 8]), [1; 12]);
        cache.reserve(knock, source, at(0));
        assert_eq!(cache.lookup(knock, source, at(1)), CacheLookup::Ignore);
        cache.store(knock, source, at(1), vec![7]);
        for _ in 0..3 {
            assert_eq!(cache.lookup(knock, source, at(9)), CacheLookup::Resend(vec![7]));
        }
        assert_eq!(cache.lookup(knock, source, at(9)), CacheLookup::Ignore);
        assert_eq!(cache.lookup(knock, source, at(10)), CacheLookup::Unknown);
    }
}
