//! Steps 2 and 3: whose datagram is this, and did that client sign it? And of packets without a payload:
//! whom may the ports name that they touch? Holds no key that opens anything. What does not pass leaves no trace but a
//! counter, and a place in a table of one size (`flow_table`).

use std::collections::HashMap;
use std::fmt;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::duplicates::DuplicateFilter;
use super::hints::{self, Hints};
use super::sequence_queue::SequenceQueue;
use crate::auth::keeper::proof::PortSequence;
use crate::auth::policy::key_limit::{KeyLimit, TokenBucket};
use crate::crypto::{Fingerprint, KeySet, MacKey, WatcherKeys};
use crate::knock::{KnockRange, Now, Steady, Timestamp};
use crate::wire::Envelope;

/// The watcher's state: keys, the hints that they have now, and the tags it has passed on.
pub struct Watcher {
    window: Duration,
    clients: Vec<Signer>,
    hints: Hints,
    copies: DuplicateFilter,
    /// Only where sequences are looked for.
    sequences: Option<SequenceQueue>,
    counts: DatagramCounts,
}

/// A key that the watcher looks for, with what it may cost.
pub struct WatchedKey {
    /// Names it.
    pub fingerprint: Fingerprint,
    /// The watcher's share of it.
    pub keys: WatcherKeys,
    /// How many knocks of it are passed on.
    pub limit: KeyLimit,
}

impl WatchedKey {
    /// The watcher's share of a client's keys, and what they may cost.
    #[must_use]
    pub fn of(keys: &KeySet, limit: KeyLimit) -> Self {
        Self { fingerprint: keys.fingerprint, keys: keys.watcher(), limit }
    }
}

pub(in crate::auth) struct Signer {
    pub(in crate::auth) fingerprint: Fingerprint,
    hint: MacKey,
    sign: MacKey,
    pub(in crate::auth) selector: MacKey,
    limit: KeyLimit,
    datagrams: TokenBucket,
    /// Of its own: an observer of the first two ports can send them too, and must not use up what datagrams have.
    sequences: TokenBucket,
    /// Knocks over the limit that have not been reported yet.
    throttled: u64,
}

/// A datagram that the client with this key signed. Made here alone, or taken from the watcher's channel.
#[derive(Clone, Copy)]
pub struct Authentic<'a> {
    fingerprint: Fingerprint,
    envelope: Envelope<'a>,
}

/// Why a datagram went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Its length is not one that knocks have.
    Length,
    /// Its hint names nobody now.
    UnknownHint,
    /// It is not signed by whom its hint names.
    Forged,
    /// One with its tag has been passed on as often as copies are.
    Duplicate,
    /// Its client has used up what its key may cost for now.
    Throttled,
}

/// What has been seen since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatagramCounts {
    /// Passed on.
    pub authentic: u64,
    /// Dropped for its length.
    pub bad_length: u64,
    /// Dropped for its hint.
    pub unknown_hint: u64,
    /// Dropped for its signature.
    pub forged: u64,
    /// Dropped as one copy too many.
    pub duplicates: u64,
    /// Packets without a payload to the knock range.
    pub port_hits: u64,
    /// Port sequences passed on.
    pub sequences: u64,
    /// Dropped, datagrams and sequences, as their key had used up its limit.
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
            copies: DuplicateFilter::default(),
            sequences: None,
            counts: DatagramCounts::default(),
        };
        watcher.replace_clients(window, clients);
        watcher
    }

    /// Takes other clients; what has been passed on, and what a key has cost, stays known.
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

    /// Looks for port sequences, too. `hash` must be another one for each process.
    pub fn watch_range(&mut self, knock_range: KnockRange, hash: RandomState) {
        self.sequences = Some(SequenceQueue::new(knock_range, hash));
    }

    /// A packet without a payload has come from `source`, to this address and port.
    pub fn record_hit(&mut self, source: SocketAddr, to: IpAddr, port: u16, now: Steady) {
        if let Some(sequences) = &mut self.sequences {
            self.counts.port_hits = self.counts.port_hits.saturating_add(1);
            sequences.record_hit(source, to, port, now);
        }
    }

    /// What the keeper is to look at next, if there is something and it has not had enough of late.
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

    /// Whether there will be a next one without another packet.
    #[must_use]
    pub fn has_sequences(&self) -> bool {
        self.sequences.as_ref().is_some_and(SequenceQueue::are_waiting)
    }

    /// Steps 2 and 3 for one UDP payload.
    ///
    /// # Errors
    /// Says which step it did not pass.
    pub fn judge<'a>(&mut self, payload: &'a [u8], now: Now) -> Result<Authentic<'a>, Dropped> {
        let verdict = self.check(payload, now);
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

    /// Work that no packet should wait for; to be called at least twice a minute.
    pub fn prepare(&mut self, now: Timestamp) {
        self.hints.prepare(now, self.window, self.clients.iter().map(|client| &client.hint));
        self.copies.forget_before(*hints::reach(now, self.window).start());
        if let Some(sequences) = &mut self.sequences {
            sequences.prepare(&self.clients, now);
        }
    }

    /// What has been seen since the start.
    #[must_use]
    pub const fn counts(&self) -> DatagramCounts {
        self.counts
    }

    /// Hands how many knocks of each key were over its limit, since this was last done, to `report`, until that has no room.
    pub fn report_throttled(&mut self, mut report: impl FnMut(Fingerprint, u64) -> bool) {
        for signer in self.clients.iter_mut().filter(|signer| signer.throttled > 0) {
            if !report(signer.fingerprint, signer.throttled) {
                return;
            }
            signer.throttled = 0;
        }
    }

    fn check<'a>(&mut self, payload: &'a [u8], now: Now) -> Result<Authentic<'a>, Dropped> {
        let envelope = Envelope::read(payload).ok_or(Dropped::Length)?;
        let hint_keys = self.clients.iter().map(|client| &client.hint);
        let named =
            self.hints.find(envelope.hint, now.wall, self.window, hint_keys).ok_or(Dropped::UnknownHint)?;
        let client = self.clients.get_mut(named.client).ok_or(Dropped::UnknownHint)?;
        // Whether it is really signed makes no difference to what goes no further, and would cost an HMAC.
        if self.copies.is_exhausted(envelope.tag) {
            return Err(Dropped::Duplicate);
        }
        if !client.sign.verify(&[envelope.signed], envelope.tag) {
            return Err(Dropped::Forged);
        }
        // Copies cost no token, or an eavesdropper could use up a client's. One that was throttled leaves no trace, so that
        // the client can resend it.
        if !self.copies.knows(envelope.tag) && !client.datagrams.take(client.limit, now.steady) {
            client.throttled = client.throttled.saturating_add(1);
            return Err(Dropped::Throttled);
        }
        if !self.copies.admit(envelope.tag, named.epoch) {
            return Err(Dropped::Duplicate);
        }
        Ok(Authentic { fingerprint: client.fingerprint, envelope })
    }
}

impl Signer {
    /// With what the same key has cost before.
    fn new(WatchedKey { fingerprint, keys, limit }: WatchedKey, before: Option<&Self>) -> Self {
        Self {
            fingerprint,
            hint: MacKey::from(&keys.hint),
            sign: MacKey::from(&keys.sign),
            selector: MacKey::from(&keys.selector),
            limit,
            datagrams: before.map(|before| before.datagrams).unwrap_or_default(),
            sequences: before.map(|before| before.sequences).unwrap_or_default(),
            throttled: before.map(|before| before.throttled).unwrap_or_default(),
        }
    }
}

impl DatagramCounts {
    /// Both together, as of two watchers.
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
        let Self {
            authentic, bad_length: length, unknown_hint, forged, duplicates: copied, throttled, ..
        } = self;
        write!(
            f,
            "{authentic} passed on, {unknown_hint} unknown hint, {forged} forged, {copied} duplicates, {throttled} over their key's limit, {length} bad length"
        )
    }
}

impl<'a> Authentic<'a> {
    /// Takes the watcher's word for it that the client with this key signed the datagram. That is all that the
    /// keeper believes it.
    #[must_use]
    pub fn from_watcher(fingerprint: Fingerprint, datagram: &'a [u8]) -> Option<Self> {
        Some(Self { fingerprint, envelope: Envelope::read(datagram)? })
    }

    /// Who signed it.
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
