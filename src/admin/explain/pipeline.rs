//! Passes each packet through the daemon's watcher and keeper at the time of its capture. They decide which check stops
//! it; the likely cause is derived here, and for refusals in `causes.rs`.

use std::collections::{BTreeMap, HashMap};
use std::hash::RandomState;
use std::net::SocketAddr;
use std::time::Duration;

use super::candidates::{Candidates, Clock, KeyState, Lookup};
use super::causes::{Causes, span};
use super::finding::{Check, PacketFinding};
use super::fwknop::FwknopRecognizer;
use super::note::{Note, unreadable, wrong_length};
use crate::capture::Frame;
use crate::config::setup::Setup;
use crate::console::{counted, own_command};
use crate::os::clock;
use crate::packet::{Packet, Transport};
use spa_knock_core::auth::{
    Accepted, Authentic, Decision, Dropped, Judgment, Keeper, Outcome, Refusal, ReplayMemory, Watcher,
};
use spa_knock_core::crypto::Tag;
use spa_knock_core::knock::{ClientName, KnockRange, Now, ServerId, Steady, Timestamp};
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// The maximum number of knocks whose copies are recognized. Only knocks of clients are stored.
const TOO_MANY: &str = "more knocks with this key than `per-key-limit` allows";
const TOO_MANY_CAUSE: &str = "a program that knocks in a loop, or a stolen key";
const SEEN_MAX: usize = 1 << 16;
/// Interval at which the watcher prepares for the next minute.
const TICK: Duration = Duration::from_secs(10);

/// The checks and their state.
pub(super) struct Pipeline {
    id: ServerId,
    port: u16,
    /// The knock range, if port sequences are enabled.
    knock_range: Option<KnockRange>,
    window: Duration,
    watcher: Watcher,
    keeper: Keeper,
    candidates: Candidates,
    fwknop: FwknopRecognizer,
    causes: Causes,
    /// The first packet with each tag.
    seen: HashMap<Tag, u64>,
    count: u64,
    ends: BTreeMap<&'static str, u64>,
    begun: Option<Timestamp>,
    /// The steady clock at `begun`; it advances with the capture's timestamps.
    origin: Steady,
    prepared: Timestamp,
}

impl Pipeline {
    /// The checks of a daemon with this config, without any previous state.
    pub(super) fn new(setup: &Setup, candidates: Candidates, fwknop: FwknopRecognizer) -> Self {
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
            candidates,
            fwknop,
            causes: Causes::new(setup),
            seen: HashMap::new(),
            count: 0,
            ends: BTreeMap::new(),
            begun: None,
            origin: clock::steady(),
            prepared: Timestamp::default(),
        }
    }

    /// Runs the checks on a packet.
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
        let note = self.check(packet, frame, now);
        let ended = self.ends.entry(note.check.as_str()).or_default();
        *ended = ended.saturating_add(1);
        PacketFinding {
            number: self.count,
            time: frame.time,
            endpoints: packet.map(|packet| (packet.source, packet.destination)),
            check: note.check,
            client: note.client,
            action: note.action,
            reason: note.reason,
            cause: note.cause,
        }
    }

    /// The number of packets by check, as text.
    pub(super) fn tally(&self) -> String {
        let ends: Vec<String> = self.ends.iter().map(|(check, count)| format!("{check} {count}")).collect();
        let colon = if ends.is_empty() { "" } else { ": " };
        format!("{}{colon}{}", counted(self.count, "packet"), ends.join(", "))
    }

    /// Step 1, which the kernel's filter performs for the daemon.
    fn check(&mut self, packet: Option<Packet<'_>>, frame: &Frame<'_>, now: Now) -> Note {
        let Some(Packet { source, destination, transport, .. }) = packet else {
            return unreadable(frame);
        };
        if packet.is_some_and(|packet| packet.is_port_hit())
            && self.knock_range.is_some_and(|knock_range| knock_range.contains(destination.port()))
        {
            return self.port_hit(source, destination, now);
        }
        let payload = match transport {
            Transport::Tcp { .. } => return Note::of(Check::Other, "TCP"),
            Transport::Udp { payload: None } if destination.port() == self.port => {
                return Note::of(Check::Fragment, "the first fragment of a datagram").from(
                    "a network on the path fragments or drops packets of this size; knocks must arrive unfragmented",
                );
            }
            Transport::Udp { payload: None } => return Note::of(Check::Other, "a fragment to another port"),
            Transport::Udp { payload: Some(payload) } => payload,
        };
        if let Some(note) = self.fwknop.note(payload, destination.port()) {
            return note;
        }
        if destination.port() != self.port {
            return self.check_other_port(payload, source, destination, now);
        }
        match self.watcher.judge(payload, now) {
            Ok(knock) => self.check_as_keeper(&knock, source, now),
            Err(Dropped::Length) => wrong_length(payload.len()),
            Err(Dropped::UnknownHint) => self.search_client(payload, source, destination, now),
            Err(Dropped::Forged) => {
                let client = self.candidates.hinted(payload, now.wall, self.window);
                Note::of(Check::Signature, "its hint belongs to a client that did not sign it")
                    .by(client)
                    .from("changed in transit, or forged with the hint of an observed knock")
            }
            Err(Dropped::Throttled) => {
                let client = self.candidates.signer(payload, now.wall, self.window);
                Note::of(Check::Throttled, TOO_MANY).by(client).from(TOO_MANY_CAUSE)
            }
            Err(Dropped::Duplicate) => {
                Note::of(Check::Copies, "too many copies of a knock").from(self.copy(payload))
            }
        }
    }

    /// A datagram to a port other than the knock port.
    fn check_other_port(&mut self, payload: &[u8], from: SocketAddr, to: SocketAddr, now: Now) -> Note {
        let other = |what: String| Note::of(Check::Other, what);
        if from.port() == self.port {
            return other(format!("UDP from the knock port to port {}, perhaps a reply", to.port()));
        }
        if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&payload.len()) {
            return other(format!("UDP to port {}", to.port()));
        }
        match self.candidates.search(payload, to.ip(), now.wall) {
            Lookup::Signed(knock, _) => {
                let client =
                    self.candidates.suspect(knock.fingerprint()).map(|suspect| suspect.client.clone());
                Note::of(Check::Port, format!("a knock, but to port {}", to.port())).by(client).from(format!(
                    "the client's `port` is wrong: this server uses udp/{} (spa-knock --port {})",
                    self.port, self.port
                ))
            }
            Lookup::Hinted | Lookup::Unknown | Lookup::NotCompared => {
                other(format!("UDP to port {}", to.port()))
            }
        }
    }

    /// A packet without a payload to a port of the knock range.
    fn port_hit(&mut self, from: SocketAddr, to: SocketAddr, now: Now) -> Note {
        self.watcher.record_hit(from, to.ip(), to.port(), now.steady);
        let mut note =
            Note::of(Check::PortHit, "a packet to the knock range; it completes no client's port sequence");
        while let Some(sequence) = self.watcher.next_sequence(now) {
            let client =
                self.candidates.suspect(sequence.fingerprint()).map(|suspect| suspect.client.clone());
            for result in self.keeper.judge_sequence(&sequence, now) {
                note = match result {
                    Ok(accepted) => self.decide(accepted, client.clone(), None, now),
                    Err(refusal) => self.refused(refusal, client.clone(), None),
                };
            }
        }
        note
    }

    /// Handles a hint that belongs to no client at this time: it may belong to one at another time, or for another
    /// server id.
    fn search_client(&mut self, payload: &[u8], from: SocketAddr, to: SocketAddr, now: Now) -> Note {
        const REASON: &str = "no client has a key with this hint now";
        let note = Note::of(Check::Hint, REASON);
        let (knock, its_clock) = match self.candidates.search(payload, to.ip(), now.wall) {
            Lookup::Signed(knock, its_clock) => (knock, its_clock),
            Lookup::Hinted => {
                return note.from(
                    "its hint belongs to a knock of another time, but the rest does not: changed in transit or forged",
                );
            }
            Lookup::Unknown => return note.from(self.no_key_matches()),
            Lookup::NotCompared => {
                return note.from(
                    "not compared with keys at other times, because the packets of this capture are too far apart in time; \
                     explain a part of it (editcap -A and -B)",
                );
            }
        };
        let Some(suspect) = self.candidates.suspect(knock.fingerprint()).cloned() else { return note };
        let note = note.by(Some(suspect.client.clone()));
        match suspect.state {
            KeyState::For(id) => note.from(format!(
                "signed for the server id {id}; this server is {} (see the key's `server`, or --server-id)",
                self.id
            )),
            KeyState::Replaced(until) if until <= now.wall => note.from(format!(
                "made with the previous key of {}, which was valid until {}",
                suspect.client,
                clock::rfc3339(until)
            )),
            KeyState::InUse | KeyState::Replaced(_) => {
                // The keeper checks its timestamp.
                let by_keeper = self.check_as_keeper(&knock, from, now);
                let cause = match its_clock {
                    Clock::Set => by_keeper.cause,
                    Clock::Unset => Some(format!(
                        "the clock of {} was reset to 1970 when the device was switched on, and has not been set since",
                        suspect.client
                    )),
                };
                Note {
                    cause,
                    action: by_keeper.action,
                    reason: format!("{REASON}: {}", by_keeper.reason),
                    ..note
                }
            }
        }
    }

    fn no_key_matches(&self) -> String {
        let tried: Vec<String> = self.candidates.tried().map(ToString::to_string).collect();
        format!(
            "its key is unknown here: revoked, replaced or made for another server; or it is not a knock (compare `spa-knock \
             show FILE` on the client with `{}`; tried: server ids {}, {}; times within {})",
            own_command("client list"),
            self.id,
            tried.join(", "),
            span(self.candidates.reach())
        )
    }

    /// Steps 4 to 8.
    fn check_as_keeper(&mut self, knock: &Authentic<'_>, source: SocketAddr, now: Now) -> Note {
        let client = self.candidates.suspect(knock.fingerprint()).map(|suspect| suspect.client.clone());
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
            Judgment::Throttle => Note::of(Check::Throttled, TOO_MANY).by(client).from(TOO_MANY_CAUSE),
            Judgment::Resend(_) | Judgment::Ignore => {
                let note = Note::of(Check::Resent, "a copy of a knock that just got its reply").by(client);
                note.from(format!(
                    "a resend by the client, identical to packet {}",
                    copy_of.unwrap_or_default()
                ))
            }
        }
    }

    /// The result of step 8; nothing is recorded.
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
        // From now on, its copies are resends.
        self.keeper.postpone(authorized.context(), now);
        let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
        let time = match record.seconds {
            0 => String::new(),
            seconds => format!(", for {seconds} s"),
        };
        let reason = format!("all checks, for {}{time}", addresses.join(", "));
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

    /// The cause of a copy: the packet that it repeats.
    fn copy(&self, payload: &[u8]) -> String {
        let tag: Option<&Tag> = payload.last_chunk();
        let first = tag.and_then(|tag| self.seen.get(tag)).copied().unwrap_or_default();
        format!("packet {first} is sent again and again")
    }
}
