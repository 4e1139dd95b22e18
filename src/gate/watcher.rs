//! Steps 2 and 3 of the ladder: whose datagram is this, and did that client sign it? And of packets without a payload:
//! whom may the ports name that they touch? Holds no key that opens anything. What does not pass leaves no trace but a
//! counter, and a place in a table of one size (`pairs`).

use std::fmt;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::copies::Copies;
use super::hints::{self, Hints};
use super::sequences::Sequences;
use super::touched::Sequence;
use crate::crypto::{Fingerprint, MacKey, WatcherKeys};
use crate::knock::{Band, Now, Timestamp};
use crate::wire::Envelope;

/// The watcher's state: keys, the hints that they have now, and the tags it has passed on.
pub struct Watcher {
    window: Duration,
    clients: Vec<Signer>,
    hints: Hints,
    copies: Copies,
    /// Only where sequences are looked for.
    sequences: Option<Sequences>,
    counts: Counts,
}

pub(super) struct Signer {
    pub(super) fingerprint: Fingerprint,
    hint: MacKey,
    sign: MacKey,
    pub(super) selector: MacKey,
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
    Copied,
}

/// What has been seen since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Passed on.
    pub authentic: u64,
    /// Dropped for its length.
    pub length: u64,
    /// Dropped for its hint.
    pub unknown_hint: u64,
    /// Dropped for its signature.
    pub forged: u64,
    /// Dropped as one copy too many.
    pub copied: u64,
    /// Packets without a payload to the band.
    pub touches: u64,
    /// Port sequences passed on.
    pub sequences: u64,
}

impl Watcher {
    /// A watcher for these clients; `window` as in the policy.
    #[must_use]
    pub fn new(window: Duration, clients: impl IntoIterator<Item = (Fingerprint, WatcherKeys)>) -> Self {
        let mut watcher = Self {
            window,
            clients: Vec::new(),
            hints: Hints::default(),
            copies: Copies::default(),
            sequences: None,
            counts: Counts::default(),
        };
        watcher.replace_clients(window, clients);
        watcher
    }

    /// Takes other clients; what has been passed on stays known.
    pub fn replace_clients(
        &mut self,
        window: Duration,
        clients: impl IntoIterator<Item = (Fingerprint, WatcherKeys)>,
    ) {
        let signer = |(fingerprint, keys): (_, WatcherKeys)| Signer {
            fingerprint,
            hint: MacKey::from(&keys.hint),
            sign: MacKey::from(&keys.sign),
            selector: MacKey::from(&keys.selector),
        };
        self.window = window;
        self.clients = clients.into_iter().map(signer).collect();
        self.hints = Hints::default();
        if let Some(sequences) = &mut self.sequences {
            sequences.forget_clients();
        }
    }

    /// Looks for port sequences, too. `hash` must be another one for each process.
    pub fn watch_band(&mut self, band: Band, hash: RandomState) {
        self.sequences = Some(Sequences::new(band, hash));
    }

    /// A packet without a payload has come from `source`, to this address and port.
    pub fn touch(&mut self, source: SocketAddr, to: IpAddr, port: u16, now: Duration) {
        if let Some(sequences) = &mut self.sequences {
            self.counts.touches = self.counts.touches.saturating_add(1);
            sequences.touch(source, to, port, now);
        }
    }

    /// What the keeper is to look at next, if there is something and it has not had enough of late.
    pub fn next_sequence(&mut self, now: Now) -> Option<Sequence> {
        let next = self.sequences.as_mut()?.next(&self.clients, now)?;
        self.counts.sequences = self.counts.sequences.saturating_add(1);
        Some(next)
    }

    /// Whether there will be a next one without another packet.
    #[must_use]
    pub fn has_sequences(&self) -> bool {
        self.sequences.as_ref().is_some_and(Sequences::are_waiting)
    }

    /// Steps 2 and 3 for one UDP payload.
    ///
    /// # Errors
    /// Says which step it did not pass.
    pub fn judge<'a>(&mut self, payload: &'a [u8], now: Timestamp) -> Result<Authentic<'a>, Dropped> {
        let verdict = self.ladder(payload, now);
        let count = match verdict {
            Ok(_) => &mut self.counts.authentic,
            Err(Dropped::Length) => &mut self.counts.length,
            Err(Dropped::UnknownHint) => &mut self.counts.unknown_hint,
            Err(Dropped::Forged) => &mut self.counts.forged,
            Err(Dropped::Copied) => &mut self.counts.copied,
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
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn ladder<'a>(&mut self, payload: &'a [u8], now: Timestamp) -> Result<Authentic<'a>, Dropped> {
        let envelope = Envelope::read(payload).ok_or(Dropped::Length)?;
        let hint_keys = self.clients.iter().map(|client| &client.hint);
        let named =
            self.hints.find(envelope.hint, now, self.window, hint_keys).ok_or(Dropped::UnknownHint)?;
        let client = self.clients.get(named.client).ok_or(Dropped::UnknownHint)?;
        // Whether it is really signed makes no difference to what goes no further, and would cost an HMAC.
        if self.copies.are_used_up(envelope.tag) {
            return Err(Dropped::Copied);
        }
        if !client.sign.verify(&[envelope.signed], envelope.tag) {
            return Err(Dropped::Forged);
        }
        if !self.copies.admit(envelope.tag, named.epoch) {
            return Err(Dropped::Copied);
        }
        Ok(Authentic { fingerprint: client.fingerprint, envelope })
    }
}

impl Counts {
    /// Both together, as of two watchers.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            authentic: self.authentic.saturating_add(other.authentic),
            length: self.length.saturating_add(other.length),
            unknown_hint: self.unknown_hint.saturating_add(other.unknown_hint),
            forged: self.forged.saturating_add(other.forged),
            copied: self.copied.saturating_add(other.copied),
            touches: self.touches.saturating_add(other.touches),
            sequences: self.sequences.saturating_add(other.sequences),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authentic, length, unknown_hint, forged, copied, .. } = self;
        write!(
            f,
            "{authentic} passed on, {unknown_hint} of nobody, {forged} forged, {copied} copies, {length} of a wrong length"
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
