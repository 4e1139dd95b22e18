//! One packet after the other through the daemon's watcher and keeper, at the time when it was captured. What stopped it
//! is theirs to say; what that comes from is guessed here, and of refusals in `causes.rs`.

use std::collections::{BTreeMap, HashMap};
use std::hash::RandomState;
use std::net::SocketAddr;
use std::time::Duration;

use super::candidates::{Candidates, Clock, KeyState, Lookup};
use super::causes::{Causes, span};
use super::finding::{Check, PacketFinding};
use super::note::{Note, unreadable, wrong_length};
use crate::capture::Frame;
use crate::config::setup::Setup;
use crate::os::clock;
use crate::packet::{Packet, Transport};
use spa_knock_core::auth::{
    Accepted, Authentic, Decision, Dropped, Judgment, Keeper, Outcome, Refusal, ReplayMemory, Watcher,
};
use spa_knock_core::crypto::Tag;
use spa_knock_core::knock::{ClientName, KnockRange, Now, ServerId, Steady, Timestamp};
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// Knocks whose copies are told by number; only who has a key gets more in here.
const SEEN_MAX: usize = 1 << 16;
/// As often a watcher prepares for the coming minute.
const TICK: Duration = Duration::from_secs(10);

/// The checks, and what they have seen.
pub(super) struct Pipeline {
    id: ServerId,
    port: u16,
    /// Where port sequences are looked for.
    knock_range: Option<KnockRange>,
    window: Duration,
    watcher: Watcher,
    keeper: Keeper,
    suspects: Candidates,
    causes: Causes,
    /// The first packet with each tag.
    seen: HashMap<Tag, u64>,
    count: u64,
    ends: BTreeMap<&'static str, u64>,
    begun: Option<Timestamp>,
    /// What the steady clock is taken to have said then; it goes on as the trace does.
    origin: Steady,
    prepared: Timestamp,
}

impl Pipeline {
    /// The checks of the daemon that this config makes, without any memory.
    pub(super) fn new(setup: &Setup, suspects: Candidates) -> Self {
        let mut watcher = Watcher::new(setup.config.window, setup.watched_keys());
        if let Some(knock_range) = setup.config.ports {
            watcher.watch_range(knock_range, RandomState::new());
        }
        Self {
            id: setup.config.id.clone(),
            port: setup.config.port,
            window: setup.config.window,
            knock_range: setup.config.ports,
            watcher,
            keeper: Keeper::new(setup.policy(), ReplayMemory::new(Timestamp::default())),
            suspects,
            causes: Causes::new(setup),
            seen: HashMap::new(),
            count: 0,
            ends: BTreeMap::new(),
            begun: None,
            origin: clock::steady(),
            prepared: Timestamp::default(),
        }
    }

    /// What stopped a packet, if anything did.
    pub(super) fn explain(&mut self, frame: &Frame<'_>) -> PacketFinding {
        self.count = self.count.saturating_add(1);
        let begun = *self.begun.get_or_insert(frame.time);
        let passed = Duration::from_millis(frame.time.as_millis().saturating_sub(begun.as_millis()));
        let steady = self.origin.plus(passed);
        let now = Now { wall: frame.time, steady };
        if frame.time.distance(self.prepared) >= TICK {
            self.watcher.prepare(frame.time);
            self.prepared = frame.time;
        }
        let packet = Packet::read(frame.link, frame.bytes);
        let said = self.look_at(packet, frame, now);
        let ended = self.ends.entry(said.check.as_str()).or_default();
        *ended = ended.saturating_add(1);
        PacketFinding {
            number: self.count,
            time: frame.time,
            way: packet.map(|packet| (packet.source, packet.destination)),
            check: said.check,
            client: said.client,
            action: said.action,
            reason: said.reason,
            cause: said.cause,
        }
    }

    /// How many packets ended how.
    pub(super) fn tally(&self) -> String {
        let ends: Vec<String> = self.ends.iter().map(|(check, count)| format!("{check} {count}")).collect();
        let colon = if ends.is_empty() { "" } else { ": " };
        format!("{} packets{colon}{}", self.count, ends.join(", "))
    }

    /// Step 1, as the kernel's filter makes it.
    fn look_at(&mut self, packet: Option<Packet<'_>>, frame: &Frame<'_>, now: Now) -> Note {
        let Some(Packet { source, destination, transport, .. }) = packet else {
            return unreadable(frame);
        };
        if packet.is_some_and(|packet| packet.is_port_hit())
            && self.knock_range.is_some_and(|knock_range| knock_range.contains(destination.port()))
        {
            return self.touched(source, destination, now);
        }
        let payload = match transport {
            Transport::Tcp { .. } => return Note::of(Check::Other, "TCP"),
            Transport::Udp { payload: None } if destination.port() == self.port => {
                return Note::of(Check::Fragment, "the first fragment of a datagram").from(
                    "a network on the way takes no packets of this size, or cuts them; knocks come whole",
                );
            }
            Transport::Udp { payload: None } => return Note::of(Check::Other, "a fragment to another port"),
            Transport::Udp { payload: Some(payload) } => payload,
        };
        if destination.port() != self.port {
            return self.look_elsewhere(payload, source, destination, now);
        }
        match self.watcher.judge(payload, now) {
            Ok(knock) => self.ask_keeper(&knock, source, now),
            Err(Dropped::Length) => wrong_length(payload.len()),
            Err(Dropped::UnknownHint) => self.look_wide(payload, source, destination, now),
            Err(Dropped::Forged) => {
                let client = self.suspects.hinted(payload, now.wall, self.window);
                Note::of(Check::Signature, "its hint names a client that did not sign it")
                    .by(client)
                    .from("changed on the way, or somebody copied the hint of a knock that he saw")
            }
            Err(Dropped::Throttled) => {
                let client = self.suspects.signer(payload, now.wall, self.window);
                Note::of(Check::Throttled, "this key sent more knocks than `per-key-limit` allows")
                    .by(client)
                    .from("a program that knocks in a loop, or a stolen key")
            }
            Err(Dropped::Duplicate) => {
                Note::of(Check::Copies, "one copy too many of a knock").from(self.copy(payload))
            }
        }
    }

    /// A datagram to another port than ours.
    fn look_elsewhere(&mut self, payload: &[u8], from: SocketAddr, to: SocketAddr, now: Now) -> Note {
        let other = |what: String| Note::of(Check::Other, what);
        if from.port() == self.port {
            return other(format!("UDP from the knock port to port {}: perhaps an answer", to.port()));
        }
        if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&payload.len()) {
            return other(format!("UDP to port {}", to.port()));
        }
        match self.suspects.look(payload, to.ip(), now.wall) {
            Lookup::Signed(knock, _) => {
                let client = self.suspects.suspect(knock.fingerprint()).map(|suspect| suspect.client.clone());
                Note::of(Check::Port, format!("a knock, but to port {}", to.port())).by(client).from(format!(
                    "its `port` is wrong: this server hears udp/{} (spa-knock --port {})",
                    self.port, self.port
                ))
            }
            Lookup::Hinted | Lookup::Nobodys | Lookup::NotCompared => {
                other(format!("UDP to port {}", to.port()))
            }
        }
    }

    /// A packet without a payload to a port of the knock range.
    fn touched(&mut self, from: SocketAddr, to: SocketAddr, now: Now) -> Note {
        self.watcher.record_hit(from, to.ip(), to.port(), now.steady);
        let mut said =
            Note::of(Check::Touch, "to the ports of sequences; with it, no new one of a client is whole");
        while let Some(sequence) = self.watcher.next_sequence(now) {
            let client = self.suspects.suspect(sequence.fingerprint()).map(|suspect| suspect.client.clone());
            for result in self.keeper.judge_sequence(&sequence, now) {
                said = match result {
                    Ok(accepted) => self.decide(accepted, client.clone(), None, now),
                    Err(refusal) => self.refused(refusal, client.clone(), None),
                };
            }
        }
        said
    }

    /// The hint is nobody's now. It may be somebody's at another time, or for another server.
    fn look_wide(&mut self, payload: &[u8], from: SocketAddr, to: SocketAddr, now: Now) -> Note {
        const REASON: &str = "its hint names nobody at this time";
        let said = Note::of(Check::Hint, REASON);
        let (knock, its_clock) = match self.suspects.look(payload, to.ip(), now.wall) {
            Lookup::Signed(knock, its_clock) => (knock, its_clock),
            Lookup::Hinted => {
                return said.from(
                    "the hint of a knock of another time, with other bytes behind it: changed or made up",
                );
            }
            Lookup::Nobodys => return said.from(self.nobodys()),
            Lookup::NotCompared => {
                return said.from(
                    "not compared with keys at other times: the packets of this capture are too far apart in time for that; \
                     explain a part of it (editcap -A and -B)",
                );
            }
        };
        let Some(suspect) = self.suspects.suspect(knock.fingerprint()).cloned() else { return said };
        let said = said.by(Some(suspect.client.clone()));
        match suspect.state {
            KeyState::For(id) => said.from(format!(
                "signed for a server called {id}; this one is {} (the key's `server`, or --server-id)",
                self.id
            )),
            KeyState::Replaced(until) if until <= now.wall => said.from(format!(
                "made with the key that {} had before; it was good until {}",
                suspect.client,
                clock::rfc3339(until)
            )),
            KeyState::InUse | KeyState::Replaced(_) => {
                // What its own time stamp says, the keeper knows.
                let by_keeper = self.ask_keeper(&knock, from, now);
                let cause = match its_clock {
                    Clock::Set => by_keeper.cause,
                    Clock::Unset => Some(format!(
                        "the clock of {} begins in 1970 when it is switched on, and has not been set since",
                        suspect.client
                    )),
                };
                Note {
                    cause,
                    action: by_keeper.action,
                    reason: format!("{REASON}: {}", by_keeper.reason),
                    ..said
                }
            }
        }
    }

    fn nobodys(&self) -> String {
        let tried: Vec<String> = self.suspects.tried().map(ToString::to_string).collect();
        format!(
            "no key here made it for {} within {} of this time, nor for {}. It may be of a key that was revoked (those \
             are not kept), of a root key under another server id, or no knock at all: that cannot be told from its bytes",
            self.id,
            span(self.suspects.reach()),
            tried.join(", ")
        )
    }

    /// Steps 4 to 8.
    fn ask_keeper(&mut self, knock: &Authentic<'_>, source: SocketAddr, now: Now) -> Note {
        let client = self.suspects.suspect(knock.fingerprint()).map(|suspect| suspect.client.clone());
        let copy_of = self.seen.get(knock.envelope().tag).copied();
        if copy_of.is_none() {
            if self.seen.len() >= SEEN_MAX {
                self.seen.clear();
            }
            self.seen.insert(*knock.envelope().tag, self.count);
        }
        match self.keeper.judge(knock, source, now) {
            Judgment::Record(accepted) => self.decide(accepted, client, copy_of, now),
            Judgment::Refuse(refusal) => self.refused(refusal, client, copy_of),
            Judgment::Resend(_) | Judgment::Ignore => {
                let said = Note::of(Check::Resent, "a copy of a knock that was just answered").by(client);
                said.from(format!(
                    "the client sent it again; the same as packet {}",
                    copy_of.unwrap_or_default()
                ))
            }
        }
    }

    /// What step 8 comes to, with nothing put on record.
    fn decide(
        &mut self,
        accepted: Accepted,
        client: Option<ClientName>,
        copy_of: Option<u64>,
        now: Now,
    ) -> Note {
        let authorized = match self.keeper.decide(accepted, now) {
            Decision::Execute(authorized) => authorized,
            Decision::Commit(uncommitted) => uncommitted.committed(),
            Decision::Refuse(refusal) => return self.refused(refusal, client, copy_of),
        };
        let (record, _) = self.keeper.conclude(authorized.context(), Outcome::Granted, "", now);
        // Its copies are resends from now on.
        self.keeper.postpone(authorized.context(), now);
        let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
        let time = match record.seconds {
            0 => String::new(),
            seconds => format!(", for {seconds} s"),
        };
        let reason = format!("every check; for {}{time}", addresses.join(", "));
        Note { action: record.action, ..Note::of(Check::Passed, reason).by(client) }
    }

    fn refused(&self, refusal: Refusal, client: Option<ClientName>, copy_of: Option<u64>) -> Note {
        let Refusal { rejection, record, .. } = refusal;
        let cause = match copy_of {
            Some(first) => Some(format!("a copy of packet {first}, sent again")),
            None => self.causes.of(&rejection, client.as_ref()),
        };
        Note {
            check: Check::Keeper(rejection.reason()),
            client,
            action: record.and_then(|record| record.action),
            reason: rejection.to_string(),
            cause,
        }
    }

    /// The packet that the last one is a copy of.
    fn copy(&self, payload: &[u8]) -> String {
        let tag: Option<&Tag> = payload.last_chunk();
        let first = tag.and_then(|tag| self.seen.get(tag)).copied().unwrap_or_default();
        format!("somebody sends packet {first} again and again")
    }
}
