//! Steps 2 and 3: which client a datagram belongs to, and whether that client signed it. For packets without a payload:
//! which clients the hit ports may identify. Holds no key that decrypts anything. A packet that does not pass leaves
//! only a counter and, if it hits the knock range, an entry in a table of fixed size (`flow_table`).

use std::collections::HashMap;
use std::fmt;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::duplicates::DuplicateFilter;
use super::hints::{self, Hints};
use super::sequence_queue::SequenceQueue;
use super::watched_key::WatchedKey;
use crate::auth::keeper::proof::PortSequence;
use crate::auth::policy::key_limit::{KeyLimit, TokenBucket};
use crate::crypto::{Fingerprint, MacKey};
use crate::knock::{KnockRange, Now, Steady, Timestamp};
use crate::wire::Envelope;

/// The watcher's state: keys, their current hints, and the tags it has passed on.
pub struct Watcher {
    window: Duration,
    clients: Vec<Signer>,
    hints: Hints,
    duplicates: DuplicateFilter,
    /// Only if port sequences are enabled.
    sequences: Option<SequenceQueue>,
    /// What all keys of version 2 share.
    unverified: TokenBucket,
    counts: DatagramCounts,
}

pub(in crate::auth) struct Signer {
    pub(in crate::auth) fingerprint: Fingerprint,
    hint: MacKey,
    sign: MacKey,
    /// None for a key of version 2, which has no port sequences.
    pub(in crate::auth) selector: Option<MacKey>,
    limit: KeyLimit,
    datagrams: TokenBucket,
    /// The address from which the client knocked last with a valid SSH signature, and its own bucket.
    usual: Option<(IpAddr, TokenBucket)>,
    /// A separate bucket: anyone who observes the first two ports can send them too, and must not exhaust the bucket of
    /// datagrams.
    sequences: TokenBucket,
    /// Knocks over the limit that have not been reported yet.
    throttled: u64,
}

/// A datagram that was signed with this key. Created only here, or from a report of the watcher.
#[derive(Clone, Copy)]
pub struct Authentic<'a> {
    fingerprint: Fingerprint,
    envelope: Envelope<'a>,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// No knock has this length.
    Length,
    /// No configured key has this hint now.
    UnknownHint,
    /// The tag was not made with the key that the hint selects.
    Forged,
    /// The datagram has been passed on the maximum number of times.
    Duplicate,
    /// The limit of its key is exhausted for now.
    Throttled,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatagramCounts {
    /// Datagrams passed on.
    pub authentic: u64,
    /// Datagrams dropped for their length.
    pub bad_length: u64,
    /// Datagrams dropped for their hint.
    pub unknown_hint: u64,
    /// Datagrams dropped for their tag.
    pub forged: u64,
    /// Datagrams dropped as duplicates.
    pub duplicates: u64,
    /// Port hits in the knock range.
    pub port_hits: u64,
    /// Port sequences passed on.
    pub sequences: u64,
    /// Datagrams and port sequences dropped because the limit of their key was exhausted.
    pub throttled: u64,
}

impl Watcher {
    /// A watcher for these clients; `window` as in the policy.
    #[must_use]
    pub fn new(window: Duration, clients: impl IntoIterator<Item = WatchedKey>) -> Self {
        let mut watcher = Self {
            window,
            clients: Vec::new(),
            hints: Hints::default(),
            duplicates: DuplicateFilter::default(),
            sequences: None,
            unverified: TokenBucket::default(),
            counts: DatagramCounts::default(),
        };
        watcher.replace_clients(window, clients);
        watcher
    }

    /// Replaces the clients. Tags that were passed on and the state of each key's limit are kept.
    pub fn replace_clients(&mut self, window: Duration, clients: impl IntoIterator<Item = WatchedKey>) {
        let before: HashMap<Fingerprint, Signer> =
            self.clients.drain(..).map(|signer| (signer.fingerprint, signer)).collect();
        self.window = window;
        let signer = |key: WatchedKey| {
            let before = before.get(&key.fingerprint);
            Signer::new(key, before)
        };
        self.clients = clients.into_iter().map(signer).collect();
        self.hints = Hints::default();
        if let Some(sequences) = &mut self.sequences {
            sequences.forget_clients();
        }
    }

    /// Enables port sequences. `hash` must be random for each process.
    pub fn watch_range(&mut self, knock_range: KnockRange, hash: RandomState) {
        self.sequences = Some(SequenceQueue::new(knock_range, hash));
    }

    /// Records a packet without a payload from `source` to this address and port.
    pub fn record_hit(&mut self, source: SocketAddr, to: IpAddr, port: u16, now: Steady) {
        if let Some(sequences) = &mut self.sequences {
            self.counts.port_hits = self.counts.port_hits.saturating_add(1);
            sequences.record_hit(source, to, port, now);
        }
    }

    /// The next port sequence for the keeper, if there is one and the rates allow it.
    pub fn next_sequence(&mut self, now: Now) -> Option<PortSequence> {
        let sequences = self.sequences.as_mut()?;
        while let Some((client, sequence)) = sequences.next(&self.clients, now) {
            let Some(signer) = self.clients.get_mut(client) else { continue };
            if signer.sequences.take(signer.limit, now.steady) {
                sequences.count_passed(now.steady);
                self.counts.sequences = self.counts.sequences.saturating_add(1);
                return Some(sequence);
            }
            signer.throttled = signer.throttled.saturating_add(1);
            self.counts.throttled = self.counts.throttled.saturating_add(1);
        }
        None
    }

    /// Whether [`Watcher::next_sequence`] can return another sequence without a further packet.
    #[must_use]
    pub fn has_sequences(&self) -> bool {
        self.sequences.as_ref().is_some_and(SequenceQueue::are_waiting)
    }

    /// Notes the address from which the client with this key knocked last with a valid SSH signature. Datagrams from
    /// there have a limit of their own.
    pub fn set_usual_source(&mut self, key: Fingerprint, source: IpAddr) {
        let mut of_key = self.clients.iter_mut().filter(|signer| signer.fingerprint == key);
        if let Some(signer) = of_key.next()
            && signer.usual.is_none_or(|(usual, _)| usual != source)
        {
            signer.usual = Some((source, TokenBucket::default()));
        }
    }

    /// Steps 2 and 3 for one UDP payload.
    ///
    /// # Errors
    /// The check that dropped the datagram.
    pub fn judge<'a>(&mut self, payload: &'a [u8], now: Now) -> Result<Authentic<'a>, Dropped> {
        self.judge_from(payload, None, now)
    }

    /// The same for one that came from this address, if it is known.
    ///
    /// # Errors
    /// The check that dropped the datagram.
    pub fn judge_from<'a>(
        &mut self,
        payload: &'a [u8],
        source: Option<IpAddr>,
        now: Now,
    ) -> Result<Authentic<'a>, Dropped> {
        let verdict = self.check(payload, source, now);
        let count = match verdict {
            Ok(_) => &mut self.counts.authentic,
            Err(Dropped::Length) => &mut self.counts.bad_length,
            Err(Dropped::UnknownHint) => &mut self.counts.unknown_hint,
            Err(Dropped::Forged) => &mut self.counts.forged,
            Err(Dropped::Duplicate) => &mut self.counts.duplicates,
            Err(Dropped::Throttled) => &mut self.counts.throttled,
        };
        *count = count.saturating_add(1);
        verdict
    }

    /// Prepares the next epoch and time step in advance, so that no packet has to wait. Must be called at least twice a
    /// minute.
    pub fn prepare(&mut self, now: Timestamp) {
        self.hints.prepare(now, self.window, self.clients.iter().map(|client| &client.hint));
        self.duplicates.forget_before(*hints::reach(now, self.window).start());
        if let Some(sequences) = &mut self.sequences {
            sequences.prepare(&self.clients, now);
        }
    }

    /// Counts since the start.
    #[must_use]
    pub const fn counts(&self) -> DatagramCounts {
        self.counts
    }

    /// Reports for each key how many knocks were over its limit since the last report. Stops when `report` returns
    /// false.
    pub fn report_throttled(&mut self, mut report: impl FnMut(Fingerprint, u64) -> bool) {
        for signer in self.clients.iter_mut().filter(|signer| signer.throttled > 0) {
            if !report(signer.fingerprint, signer.throttled) {
                return;
            }
            signer.throttled = 0;
        }
    }

    fn check<'a>(
        &mut self,
        payload: &'a [u8],
        source: Option<IpAddr>,
        now: Now,
    ) -> Result<Authentic<'a>, Dropped> {
        let envelope = Envelope::read(payload).ok_or(Dropped::Length)?;
        let hint_keys = self.clients.iter().map(|client| &client.hint);
        let named =
            self.hints.find(envelope.hint, now.wall, self.window, hint_keys).ok_or(Dropped::UnknownHint)?;
        let client = self.clients.get_mut(named.client).ok_or(Dropped::UnknownHint)?;
        // A duplicate over the maximum is dropped whether or not its tag is right; verifying it would cost an HMAC.
        if self.duplicates.is_exhausted(envelope.tag) {
            return Err(Dropped::Duplicate);
        }
        if !client.sign.verify(&[envelope.signed], envelope.tag) {
            return Err(Dropped::Forged);
        }
        // Duplicates take no token, or an eavesdropper could exhaust the client's bucket. Of version 2, they do: a thief of
        // the pair secret could send everything sixteen times, while those of a client's own knocks are too few for its
        // bucket. A throttled datagram is not remembered, so that the client can resend it.
        let is_free = client.selector.is_some() && self.duplicates.knows(envelope.tag);
        if !is_free && !client.take(source, &mut self.unverified, now.steady) {
            client.throttled = client.throttled.saturating_add(1);
            return Err(Dropped::Throttled);
        }
        self.duplicates.count_passed(envelope.tag, named.epoch);
        Ok(Authentic { fingerprint: client.fingerprint, envelope })
    }
}

impl Signer {
    /// Takes a token for a datagram from this address. Returns whether there was one.
    fn take(&mut self, source: Option<IpAddr>, unverified: &mut TokenBucket, now: Steady) -> bool {
        if let Some((usual, bucket)) = &mut self.usual
            && Some(*usual) == source
            && bucket.take(self.limit, now)
        {
            return true;
        }
        if self.selector.is_some() || self.limit == KeyLimit::UNLIMITED {
            return self.datagrams.take(self.limit, now);
        }
        let in_total = KeyLimit::unverified_in_total();
        let has_share = self.datagrams.has_rested(KeyLimit::REST, now) || unverified.has_token(in_total, now);
        let is_admitted = has_share && self.datagrams.take(self.limit, now);
        if is_admitted {
            let _ = unverified.take(in_total, now);
        }
        is_admitted
    }

    /// Keeps the limit's state of the same key.
    fn new(WatchedKey { fingerprint, keys, limit }: WatchedKey, before: Option<&Self>) -> Self {
        Self {
            fingerprint,
            hint: MacKey::from(&keys.hint),
            sign: MacKey::from(&keys.sign),
            selector: keys.selector.as_ref().map(MacKey::from),
            limit,
            datagrams: before.map(|before| before.datagrams).unwrap_or_default(),
            usual: before.and_then(|before| before.usual),
            sequences: before.map(|before| before.sequences).unwrap_or_default(),
            throttled: before.map(|before| before.throttled).unwrap_or_default(),
        }
    }
}

impl DatagramCounts {
    /// The sum of both, for two watchers.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            authentic: self.authentic.saturating_add(other.authentic),
            bad_length: self.bad_length.saturating_add(other.bad_length),
            unknown_hint: self.unknown_hint.saturating_add(other.unknown_hint),
            forged: self.forged.saturating_add(other.forged),
            duplicates: self.duplicates.saturating_add(other.duplicates),
            port_hits: self.port_hits.saturating_add(other.port_hits),
            sequences: self.sequences.saturating_add(other.sequences),
            throttled: self.throttled.saturating_add(other.throttled),
        }
    }
}

impl fmt::Display for DatagramCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authentic, bad_length: length, unknown_hint, forged, duplicates, throttled, .. } = self;
        write!(
            f,
            "{authentic} passed on, {unknown_hint} unknown hint, {forged} forged, {duplicates} duplicates, {throttled} over their key's limit, {length} bad length"
        )
    }
}

impl<'a> Authentic<'a> {
    /// Accepts the watcher's claim that the client with this key signed the datagram; the keeper trusts it in nothing
    /// else. `None` if no knock has this length.
    #[must_use]
    pub fn from_watcher(fingerprint: Fingerprint, datagram: &'a [u8]) -> Option<Self> {
        Some(Self { fingerprint, envelope: Envelope::read(datagram)? })
    }

    /// The key that signed it.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The datagram.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope<'a> {
        &self.envelope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{PairSecret, Secret};
    use crate::knock::open_ssh;
    use crate::wire::Datagram;

    const WINDOW: Duration = Duration::from_secs(30);

    #[test]
    fn a_watcher_forgets_a_datagram_only_when_its_hint_is_no_longer_accepted() {
        let keys = PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&"bastion".parse().unwrap());
        let mut watcher = Watcher::new(WINDOW, [WatchedKey::of(&keys, KeyLimit::UNLIMITED)]);
        let wall = Timestamp::from_millis(1_795_331_877_123);
        let knock = open_ssh(wall);
        let datagram = Datagram::seal(&knock, &keys.client()).unwrap();
        let now = Now { wall, steady: Steady::MAX };
        let tag = *watcher.judge(datagram.as_bytes(), now).unwrap().envelope().tag;
        watcher.prepare(wall.plus(WINDOW));
        assert!(watcher.duplicates.knows(&tag));
        watcher.prepare(wall.plus(Duration::from_secs(60)).plus(WINDOW));
        assert!(!watcher.duplicates.knows(&tag));
    }

    #[test]
    fn the_counts_of_two_watchers_are_added_one_by_one() {
        let of = |n: u64| DatagramCounts {
            authentic: n,
            bad_length: n * 2,
            unknown_hint: n * 3,
            forged: n * 4,
            duplicates: n * 5,
            port_hits: n * 6,
            sequences: n * 7,
            throttled: n * 8,
        };
        assert_eq!(of(1).plus(of(10)), of(11));
        assert_eq!(
            of(1).to_string(),
            "1 passed on, 3 unknown hint, 4 forged, 5 duplicates, 8 over their key's limit, 2 bad length"
        );
    }
}
