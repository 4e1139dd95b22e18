//! The checks of knocks of version 2: every verdict of the vectors, and what someone with the pair secret but without the
//! SSH key can do.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests count freely and may fail loudly"
)]

mod policy;
mod ssh;
mod vector;

use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use spa_knock_core::auth::{
    Acceptance, AuditCause, ClientKey, Decision, Dropped, FidoCounter, Judgment, Keeper, KeyAge, KeyLimit,
    LastSource, Outcome, Policy, Reason, Refusal, Rejection, ReplayDomain, ReplayMemory, SignatureFault,
    SshSigner, Touch, WatchedKey, Watcher,
};
use spa_knock_core::crypto::ssh::{FidoData, PublicKey, PublicKeyError, PublicKeyKind};
use spa_knock_core::crypto::{ClientKeys, KeySet, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, KnockRange, Now, ReplyStatus, ReplyWanted, Steady, TimeStep, Timestamp,
    canonical,
};
use spa_knock_core::wire::{Datagram, Envelope, UnsignedKnock, open_reply, proof, selector, sequence};
use ssh::{KINDS, PRESENT, SshKey};
use vector::{array, bytes, secret, vectors};

const NOW: u64 = 1_795_331_877_123;
const SOURCE: &str = "203.0.113.9:4000";
const ELSEWHERE: &str = "198.51.100.1:4000";
const NONCE: std::ops::Range<usize> = 8..20;

struct Server {
    watcher: Watcher,
    keeper: Keeper,
    now: Now,
}

impl Server {
    fn new(window_ms: u64, policy: Policy, keys: &[&KeySet], memory: ReplayMemory) -> Self {
        let watched = keys.iter().map(|keys| WatchedKey::of(keys, KeyLimit::UNLIMITED));
        let wall = Timestamp::from_millis(window_ms);
        Self {
            watcher: Watcher::new(policy.window, watched),
            keeper: Keeper::new(policy, memory),
            now: Now { wall, steady: Steady::from_duration(Duration::from_secs(1_000)) },
        }
    }

    /// A server with one client that must sign with this key.
    fn of(key: &SshKey) -> Self {
        let keys = keys(7);
        let policy = policy::policy(
            [("open-ssh", policy::open("tcp/22"))],
            [client("laptop", &keys, Some(&key.public), Touch::Present)],
        );
        Self::new(NOW, policy, &[&keys], ReplayMemory::new(Timestamp::from_millis(NOW - 3_600_000)))
    }

    /// A server with a client for each of these keys, all of which must sign with the same SSH key. The watcher knows
    /// `watched`.
    fn of_many(key: &SshKey, sets: &[KeySet], watched: &[&KeySet]) -> Self {
        let clients = sets
            .iter()
            .enumerate()
            .map(|(n, set)| client(&format!("c{n}"), set, Some(&key.public), Touch::Present));
        let policy = policy::policy([("open-ssh", policy::open("tcp/22"))], clients);
        Self::new(NOW, policy, watched, ReplayMemory::new(Timestamp::default()))
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { wall: self.now.wall.plus(time), steady: self.now.steady.plus(time) };
    }

    fn judge(&mut self, datagram: &[u8], source: &str) -> Result<Judgment, Dropped> {
        let knock = self.watcher.judge(datagram, self.now)?;
        let source: SocketAddr = source.parse().unwrap();
        Ok(self.keeper.judge(&knock, source, self.now))
    }

    /// What happens to a datagram, as a text.
    fn outcome(&mut self, datagram: &[u8], source: &str) -> String {
        match self.judge(datagram, source) {
            Err(dropped) => format!("{dropped:?}"),
            Ok(Judgment::Record(accepted)) => match self.keeper.decide(accepted, self.now) {
                Decision::Execute(authorized) => {
                    let (_, reply) =
                        self.keeper.conclude(authorized.context(), Outcome::Granted, "", self.now);
                    reply.iter().for_each(drop);
                    "granted".to_owned()
                }
                Decision::Commit(_) => panic!("nothing to commit"),
                Decision::Refuse(refusal) => refusal.rejection.reason().as_str().to_owned(),
            },
            Ok(Judgment::Refuse(refusal)) => refusal.rejection.reason().as_str().to_owned(),
            Ok(Judgment::Resend(_)) => "resent".to_owned(),
            Ok(Judgment::Throttle) => "throttled".to_owned(),
            Ok(Judgment::Ignore) => "ignored".to_owned(),
        }
    }
}

fn keys(secret: u8) -> KeySet {
    PairSecret::new(Secret::from_bytes(&[secret; 32])).signed_keys(&"bastion".parse().unwrap())
}

fn client(name: &str, keys: &KeySet, key: Option<&PublicKey>, touch: Touch) -> ClientKey {
    let signer = key.map(|key| SshSigner { public_key: key.clone(), touch, limit: KeyLimit::UNLIMITED });
    ClientKey { signer, ..policy::client(name, keys, &["open-ssh"]) }
}

fn knock(ms: u64) -> Knock {
    Knock {
        timestamp: Timestamp::from_millis(ms),
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Exact,
        ipv4: Some("203.0.113.9".parse().unwrap()),
        ipv6: None,
        action: "open-ssh".parse().unwrap(),
        argument: Argument::none(),
    }
}

/// What a thief of the pair secret can send: the same knock with any bytes in the place of the signature.
fn forged(genuine: &[u8], client: &ClientKeys, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let envelope = Envelope::read(genuine).unwrap();
    let mut sealed = envelope.sealed.to_vec();
    let mut body = client.seal.open(envelope.nonce, envelope.hint, &mut sealed).unwrap().to_vec();
    change(&mut body);
    client.seal.seal(envelope.nonce, envelope.hint, &mut body).unwrap();
    let mut datagram = [envelope.hint.as_slice(), envelope.nonce, &body].concat();
    datagram.extend(client.sign.tag(&[&datagram]));
    datagram
}

/// A knock that the thief signs with a key of their own.
fn stolen(thief: &SshKey, ms: u64) -> Vec<u8> {
    thief.seal(&knock(ms), &keys(7).client()).as_bytes().to_vec()
}

#[test]
fn every_knock_gets_the_verdict_of_its_vector() {
    let mut verdicts = 0;
    for case in vectors("knocks") {
        let text = |name: &str| case[name].as_str().unwrap();
        let pair = PairSecret::new(secret(&case["pair"]));
        let server = text("server_id").parse().unwrap();
        let public_key = case["public_key"].as_str().map(|line| line.parse::<PublicKey>().unwrap());
        let keys = if public_key.is_some() { pair.signed_keys(&server) } else { pair.keys(&server) };
        let touch = if text("touch") == "pin" { Touch::Pin } else { Touch::Present };
        let policy = policy::policy([], [client("a", &keys, public_key.as_ref(), touch)]);
        let memory = memory(&case, keys.fingerprint, public_key.as_ref());
        let before = memory.clone();
        let mut server = Server::new(case["now_ms"].as_u64().unwrap(), policy, &[&keys], memory);
        let source = SocketAddr::new(canonical(text("source").parse::<IpAddr>().unwrap()), 4_000).to_string();

        let datagram = bytes(&case["datagram"]);
        let judgment = server.judge(&datagram, &source);
        let recorded = matches!(&judgment, Ok(Judgment::Record(_)));
        let (check, status) = match judgment {
            Err(Dropped::Length) => ("length", None),
            Err(Dropped::UnknownHint) => ("hint", None),
            Err(Dropped::Forged) => ("tag", None),
            Ok(Judgment::Record(accepted)) => match server.keeper.decide(accepted, server.now) {
                Decision::Refuse(Refusal { rejection: Rejection::UnsupportedFormat, .. }) => {
                    ("body", Some(ReplyStatus::NotUnderstood))
                }
                // No action is configured here.
                Decision::Refuse(Refusal { rejection: Rejection::UnknownAction(_), .. }) => {
                    ("accepted", None)
                }
                _ => panic!("{case}"),
            },
            Ok(Judgment::Refuse(refusal)) => {
                let check = match &refusal.rejection {
                    Rejection::DecryptionFailed => "seal",
                    Rejection::Stale(_) => "fresh",
                    Rejection::Replayed => "replay",
                    Rejection::Signature(SignatureFault::Wrong) => "signature",
                    Rejection::Signature(SignatureFault::Presence | SignatureFault::Pin) => "flags",
                    Rejection::Signature(SignatureFault::Counter) => "counter",
                    Rejection::AddressMismatch => "address",
                    other => panic!("{other:?}: {case}"),
                };
                let status = refusal.rejection.status();
                if let Some(reply) = refusal.reply {
                    let sealed = server.keeper.seal(reply, &[1; 12], server.now).unwrap();
                    let nonce = datagram[NONCE].try_into().unwrap();
                    let reply = open_reply(&sealed, &keys.client().reply, &nonce).unwrap();
                    assert_eq!(Some(reply.status), status);
                    if status == Some(ReplyStatus::SignatureRefused) {
                        assert_eq!(reply.text.as_str(), refusal.rejection.reason().as_str());
                    }
                }
                (check, status)
            }
            _ => panic!("{case}"),
        };
        let expect = &case["expect"];
        assert_eq!(Some(check), expect["check"].as_str(), "{case}");
        let code = status.map(|status| u64::from(status.code()));
        assert_eq!(code, expect["status"].as_u64(), "{case}");
        assert_eq!(Some(recorded), expect["recorded"].as_bool(), "{case}");
        let changed = server.keeper.replay().acceptances().ne(before.acceptances())
            || server.keeper.replay().floors().ne(before.floors())
            || server.keeper.replay().counters().ne(before.counters());
        assert_eq!(changed, recorded, "{case}");
        verdicts += 1;
    }
    assert_eq!(verdicts, 91);
}

/// The replay memory before a vector's knock.
fn memory(
    case: &Value,
    key: spa_knock_core::crypto::Fingerprint,
    public_key: Option<&PublicKey>,
) -> ReplayMemory {
    let floor = Timestamp::from_millis(case["floor_ms"].as_u64().unwrap());
    let mut memory = ReplayMemory::new(floor);
    let timestamp = Timestamp::from_millis(case["now_ms"].as_u64().unwrap());
    for id in case["ids"].as_array().unwrap() {
        let domain = ReplayDomain::Datagrams;
        memory.restore(&Acceptance { key, domain, timestamp, id: array(id), floor, counter: None });
    }
    if let (Some(at), Some(public_key)) = (case["counter"]["timestamp_ms"].as_u64(), public_key) {
        let value = u32::try_from(case["counter"]["value"].as_u64().unwrap()).unwrap();
        memory.restore_counter(
            key,
            Timestamp::from_millis(at),
            FidoCounter::of(public_key.fingerprint(), value),
        );
    }
    memory
}

#[test]
fn a_public_key_is_read_as_it_was_written_and_has_the_names_of_openssh() {
    for kind in KINDS {
        let (short, algorithm) = match kind {
            PublicKeyKind::Ed25519 => ("ED25519", "ssh-ed25519"),
            PublicKeyKind::EcdsaP256 => ("ECDSA", "ecdsa-sha2-nistp256"),
            PublicKeyKind::SkEd25519 => ("ED25519-SK", "sk-ssh-ed25519@openssh.com"),
            PublicKeyKind::SkEcdsa => ("ECDSA-SK", "sk-ecdsa-sha2-nistp256@openssh.com"),
        };
        let key = SshKey::new(kind).public;
        assert_eq!((key.kind().short_name(), key.kind().algorithm()), (short, algorithm));
        // RFC 4253, section 6.6: a key starts with its algorithm, after the length of that.
        let length = u32::try_from(algorithm.len()).unwrap().to_be_bytes();
        assert!(key.blob().starts_with(&[&length, algorithm.as_bytes()].concat()));
        assert_eq!(PublicKey::from_blob(key.blob()), Ok(key.clone()));
        assert_eq!(format!("{key} a comment").parse(), Ok(key));
    }
}

#[test]
fn a_text_that_is_not_a_public_key_for_ssh_is_refused_with_the_reason() {
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    for kind in KINDS {
        let key = SshKey::new(kind).public;
        let text = key.to_string();
        let (algorithm, blob) = text.split_once(' ').unwrap();
        let other =
            if kind == PublicKeyKind::Ed25519 { PublicKeyKind::SkEd25519 } else { PublicKeyKind::Ed25519 };
        for (text, error) in [
            (String::new(), PublicKeyError::Text),
            (algorithm.to_owned(), PublicKeyError::Text),
            (format!("{algorithm} *"), PublicKeyError::Text),
            (format!("ssh-rsa {blob}"), PublicKeyError::Kind),
            (format!("{} {blob}", other.algorithm()), PublicKeyError::Algorithm),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(error), "{text}");
        }
        assert_eq!(format!("{key:?}"), text, "the same in messages of tests");
        // The application is the last string of a FIDO key.
        if kind.is_fido() {
            let for_web = [&key.blob()[..key.blob().len() - 8], &string(b"https://a")].concat();
            assert_eq!(PublicKey::from_blob(&for_web), Err(PublicKeyError::Application));
        }
    }
}

#[test]
fn only_a_fido_key_signs_with_what_its_device_states_and_it_needs_that() {
    for kind in KINDS {
        let key = SshKey::new(kind).public;
        let unsigned = UnsignedKnock::new(&knock(NOW), &keys(7).client(), &key).unwrap();
        for fido in [None, Some(FidoData { flags: PRESENT, counter: 1 })] {
            let signs = key.signed_bytes(unsigned.message(), fido).is_some();
            assert_eq!(signs, fido.is_some() == kind.is_fido(), "{kind:?}");
        }
    }
}

#[test]
fn a_key_of_each_kind_opens_a_port_and_no_other_key_does() {
    for kind in KINDS {
        let (own, other) = (SshKey::new(kind), SshKey::new(kind));
        let mut server = Server::of(&own);
        assert_eq!(server.outcome(&stolen(&other, NOW), SOURCE), "signature");
        let genuine = own.seal(&knock(NOW), &keys(7).client());
        assert_eq!(server.outcome(genuine.as_bytes(), SOURCE), "granted", "{kind:?}");
        assert_eq!(server.outcome(genuine.as_bytes(), ELSEWHERE), "replayed");
    }
}

#[test]
fn a_thief_of_the_pair_secret_cannot_consume_a_knock() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let mut server = Server::of(&own);
    let keys = keys(7).client();
    let genuine = own.seal(&knock(NOW), &keys).as_bytes().to_vec();
    let before = server.keeper.replay().clone();
    // With the nonce of the genuine knock, from its source, and from others.
    for source in [SOURCE, ELSEWHERE, SOURCE] {
        let wrong = forged(&genuine, &keys, |body| *body.last_mut().unwrap() ^= 1);
        let Ok(Judgment::Refuse(refusal)) = server.judge(&wrong, source) else { panic!("not refused") };
        assert_eq!(refusal.rejection, Rejection::Signature(SignatureFault::Wrong));
        server.keeper.seal(refusal.reply.unwrap(), &[1; 12], server.now).unwrap();
    }
    for n in 0..40 {
        assert_eq!(server.outcome(&stolen(&thief, NOW + n), SOURCE), "signature");
    }
    assert!(server.keeper.replay().floors().eq(before.floors()) && server.keeper.replay().is_empty());
    assert_eq!(server.outcome(&genuine, SOURCE), "granted", "it is still new");
}

#[test]
fn a_resend_of_a_refused_signature_is_verified_again_and_its_reply_is_not_kept() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let mut server = Server::of(&own);
    let wrong = stolen(&thief, NOW);
    for _ in 0..10 {
        let Ok(Judgment::Refuse(refusal)) = server.judge(&wrong, SOURCE) else { panic!("not refused") };
        let sealed = server.keeper.seal(refusal.reply.unwrap(), &[1; 12], server.now).unwrap();
        assert!(sealed.len() <= wrong.len());
    }
}

#[test]
fn only_so_many_wrong_signatures_are_verified_and_right_ones_are_free() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let mut server = Server::of(&own);
    let genuine = |ms| own.seal(&knock(ms), &keys(7).client()).as_bytes().to_vec();
    for n in 0..200 {
        assert_eq!(server.outcome(&genuine(NOW + n), SOURCE), "granted");
    }
    let flood = |server: &mut Server, source: &str, times: u64| {
        let wall = server.now.wall.as_millis();
        (0..times).filter(|n| server.outcome(&stolen(&thief, wall + n), source) == "signature").count()
    };
    // Without tokens, knocks are dropped without a reply, no matter by which key; but the last granted address has its own.
    assert_eq!(flood(&mut server, ELSEWHERE, 500), 50);
    let roaming = genuine(NOW + 400);
    assert_eq!(server.outcome(&roaming, ELSEWHERE), "unverified");
    assert_eq!(server.outcome(&genuine(NOW + 401), SOURCE), "granted", "the address of the last grant");
    assert_eq!(flood(&mut server, SOURCE, 500), 10);
    assert_eq!(server.outcome(&genuine(NOW + 402), SOURCE), "unverified");
    server.pass(Duration::from_secs(1));
    assert_eq!(flood(&mut server, ELSEWHERE, 500), 50, "a second later");
    assert_eq!(server.outcome(&genuine(NOW + 1_403), SOURCE), "granted");
    server.pass(Duration::from_millis(20));
    let exact = "one token is refilled: the knock that was dropped is verified, and refused for its address";
    assert_eq!(server.outcome(&roaming, ELSEWHERE), "address-mismatch", "{exact}");
}

#[test]
fn a_knock_that_was_dropped_unverified_gets_no_reply_and_is_counted_with_the_refusals() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let mut server = Server::of(&own);
    for n in 0..60 {
        let Ok(Judgment::Refuse(refusal)) = server.judge(&stolen(&thief, NOW + n), SOURCE) else {
            panic!("not refused")
        };
        let is_verified = n < 50;
        assert_eq!(refusal.reply.is_some(), is_verified);
        let reason = if is_verified { Reason::Signature } else { Reason::Unverified };
        assert_eq!(refusal.rejection.reason(), reason);
        let cause = refusal.record.unwrap().reason.unwrap().cause;
        assert_eq!(cause, AuditCause::Rejected(Reason::Signature));
    }
}

#[test]
fn the_thieves_of_many_pair_secrets_share_a_thousand_verifications_a_second() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let sets: Vec<KeySet> = (0..40).map(keys).collect();
    let mut server = Server::of_many(&own, &sets, &sets.iter().collect::<Vec<_>>());
    let victim = own.seal(&knock(NOW), &sets[39].client());
    let mut verified = 0;
    for _ in 0..60 {
        for set in &sets[..39] {
            let wrong = thief.seal(&knock(NOW), &set.client());
            verified += usize::from(server.outcome(wrong.as_bytes(), ELSEWHERE) == "signature");
        }
    }
    assert_eq!(verified, 1_000);
    let wrong = || thief.seal(&knock(NOW), &sets[0].client());
    assert_eq!(server.outcome(wrong().as_bytes(), ELSEWHERE), "unverified");
    let own_thief = thief.seal(&knock(NOW), &sets[39].client());
    assert_eq!(server.outcome(own_thief.as_bytes(), ELSEWHERE), "signature", "the first one of this client");
    assert_eq!(server.outcome(victim.as_bytes(), SOURCE), "unverified", "not the second one");
    server.pass(Duration::from_millis(10));
    assert_eq!(server.outcome(victim.as_bytes(), SOURCE), "granted");
}

#[test]
fn the_thieves_of_other_pair_secrets_keep_no_client_out_that_knocks_from_a_new_address() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let sets: Vec<KeySet> = (0..61).map(keys).collect();
    let mut server = Server::of_many(&own, &sets, &[]);
    let limit = KeyLimit::new(8, "1/s".parse().unwrap());
    let old = PairSecret::new(Secret::from_bytes(&[250; 32])).keys(&"bastion".parse().unwrap());
    let watched = sets.iter().chain([&old]).map(|keys| WatchedKey::of(keys, limit));
    server.watcher = Watcher::new(Duration::from_secs(30), watched);
    // In a second, each key sends 60, which is within its own limit, but all of them together send 3,600.
    let mut passed = 0;
    for n in 0..60_u64 {
        for set in &sets[..60] {
            let wrong = thief.seal(&knock(NOW + n), &set.client());
            passed += usize::from(server.outcome(wrong.as_bytes(), ELSEWHERE) != "Throttled");
        }
        server.pass(Duration::from_millis(16));
    }
    assert!((1_900..=60 + 256 + 2_000).contains(&passed), "{passed}");
    let burst = (0..10).flat_map(|n| sets[..60].iter().map(move |set| (n, set)));
    for (n, set) in burst {
        let wrong = thief.seal(&knock(NOW + 100 + n), &set.client());
        server.outcome(wrong.as_bytes(), ELSEWHERE);
    }
    let unsigned = |n| Datagram::seal(&knock(NOW + 200 + n), &old.client()).unwrap();
    for n in 0..8 {
        assert!(server.watcher.judge(unsigned(n).as_bytes(), server.now).is_ok(), "version 1");
    }
    let victim = own.seal(&knock(NOW + 300), &sets[60].client());
    assert_eq!(server.outcome(victim.as_bytes(), SOURCE), "granted");
}

#[test]
fn a_thief_who_sends_everything_sixteen_times_gets_no_more_through_the_watcher() {
    let thief = SshKey::new(KINDS[0]);
    let set = keys(7);
    let limit = KeyLimit::new(8, "1/s".parse().unwrap());
    let mut watcher = Watcher::new(Duration::from_secs(30), [WatchedKey::of(&set, limit)]);
    let now =
        Now { wall: Timestamp::from_millis(NOW), steady: Steady::from_duration(Duration::from_secs(1_000)) };
    let mut passed = 0;
    for n in 0..50 {
        let wrong = thief.seal(&knock(NOW + n), &set.client());
        passed += (0..16).filter(|_| watcher.judge(wrong.as_bytes(), now).is_ok()).count();
    }
    assert_eq!(passed, 128);
}

#[test]
fn a_client_that_was_removed_has_no_usual_address_when_it_returns() {
    let own = SshKey::new(KINDS[0]);
    let mut server = Server::of(&own);
    let policy = |client| policy::policy([("open-ssh", policy::open("tcp/22"))], client);
    let laptop = || client("laptop", &keys(7), Some(&own.public), Touch::Present);
    let genuine = own.seal(&knock(NOW), &keys(7).client());
    assert_eq!(server.outcome(genuine.as_bytes(), SOURCE), "granted");
    let source: SocketAddr = SOURCE.parse().unwrap();
    server.keeper.replace_policy(policy(Some(laptop())));
    assert_eq!(server.keeper.usual_source(keys(7).fingerprint), Some(source.ip()));
    server.keeper.replace_policy(policy(None));
    assert_eq!(server.keeper.usual_source(keys(7).fingerprint), None);
    server.keeper.replace_policy(policy(Some(laptop())));
    assert_eq!(server.keeper.usual_source(keys(7).fingerprint), None);
}

#[test]
fn the_address_of_the_last_grant_is_restored_with_the_replay_memory() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let mut server = Server::of(&own);
    let ip = |source: &str| source.parse::<SocketAddr>().unwrap().ip();
    let observed = |ms| Knock { policy: AddressPolicy::Observed, ..knock(ms) };
    let granted = |server: &mut Server, set: &KeySet, ms, source: &str| {
        server.outcome(own.seal(&observed(ms), &set.client()).as_bytes(), source)
    };
    let (set, rotated) = (keys(7), keys(8));
    assert_eq!(granted(&mut server, &set, NOW, ELSEWHERE), "granted");
    assert_eq!(granted(&mut server, &set, NOW + 1, SOURCE), "granted");
    let stored: Vec<_> = server.keeper.replay().sources().iter().collect();
    let last = LastSource { timestamp: Timestamp::from_millis(NOW + 1), address: ip(SOURCE) };
    assert_eq!(stored, [(set.fingerprint, last)]);

    // A new daemon; and one with a new key for the client, and the old one for an overlap.
    let current = client("laptop", &set, Some(&own.public), Touch::Present);
    let previous =
        ClientKey { age: KeyAge::Previous, ..client("laptop", &set, Some(&own.public), Touch::Present) };
    let new = client("laptop", &rotated, Some(&own.public), Touch::Present);
    for clients in [vec![current], vec![new, previous]] {
        let by = if clients.len() == 1 { &set } else { &rotated };
        let mut memory = ReplayMemory::new(Timestamp::from_millis(NOW - 1_000));
        stored.iter().for_each(|(key, source)| memory.sources_mut().store(*key, *source));
        let policy = policy::policy([("open-ssh", policy::open("tcp/22"))], clients);
        let mut again = Server::new(NOW, policy, &[&set, &rotated], memory);
        assert_eq!(again.keeper.usual_source(by.fingerprint), Some(ip(SOURCE)));
        for n in 0..100 {
            let wrong = thief.seal(&observed(NOW + n), &by.client());
            again.outcome(wrong.as_bytes(), ELSEWHERE);
        }
        assert_eq!(granted(&mut again, by, NOW + 200, ELSEWHERE), "unverified");
        assert_eq!(granted(&mut again, by, NOW + 201, SOURCE), "granted");
        // Known already, so there is nothing to record.
        assert_eq!(again.keeper.replay().sources().iter().count(), 1);
        // A client without a public key has no such address, and a removed one is forgotten.
        again.keeper.replace_policy(policy::policy([], []));
        assert_eq!(again.keeper.replay().sources().iter().count(), 0);
    }
}

#[test]
fn a_client_with_its_ssh_key_gets_what_its_limit_allows() {
    let own = SshKey::new(KINDS[0]);
    let set = keys(7);
    let mut laptop = client("laptop", &set, Some(&own.public), Touch::Present);
    laptop.signer.as_mut().unwrap().limit = KeyLimit::new(8, "1/s".parse().unwrap());
    let policy = policy::policy([("open-ssh", policy::open("tcp/22"))], [laptop]);
    let mut server = Server::new(NOW, policy, &[&set], ReplayMemory::new(Timestamp::default()));
    let send =
        |server: &mut Server, ms| server.outcome(own.seal(&knock(ms), &set.client()).as_bytes(), SOURCE);
    let granted = (0..20).filter(|n| send(&mut server, NOW + n) == "granted").count();
    assert_eq!(granted, 8);
    let recorded = server.keeper.replay().acceptances().count();
    assert_eq!((send(&mut server, NOW + 30), recorded), ("throttled".to_owned(), 8));
    // Copies from elsewhere take no token.
    server.pass(Duration::from_secs(2));
    let copied = own.seal(&knock(NOW + 2_000), &set.client());
    for _ in 0..10 {
        assert_eq!(server.outcome(copied.as_bytes(), ELSEWHERE), "address-mismatch");
    }
    assert_eq!(server.outcome(copied.as_bytes(), SOURCE), "granted");
}

#[test]
fn the_watcher_passes_on_knocks_of_the_last_address_during_a_flood() {
    let (own, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let set = keys(7);
    let mut watcher = Watcher::new(
        Duration::from_secs(30),
        [WatchedKey::of(&set, KeyLimit::new(8, "1/s".parse().unwrap()))],
    );
    let now =
        Now { wall: Timestamp::from_millis(NOW), steady: Steady::from_duration(Duration::from_secs(1_000)) };
    let [source, elsewhere] =
        [SOURCE, ELSEWHERE].map(|source| Some(source.parse::<SocketAddr>().unwrap().ip()));
    watcher.set_usual_source(set.fingerprint, source.unwrap());
    let passed = |watcher: &mut Watcher, key: &SshKey, from, now| {
        let sent = (0..1_000).map(|_| key.seal(&knock(NOW), &set.client()));
        sent.filter(|datagram| watcher.judge_from(datagram.as_bytes(), from, now).is_ok()).count()
    };
    assert_eq!(passed(&mut watcher, &thief, elsewhere, now), 128, "more than the keeper verifies");
    let genuine = own.seal(&knock(NOW), &set.client());
    assert_eq!(watcher.judge_from(genuine.as_bytes(), elsewhere, now).err(), Some(Dropped::Throttled));
    assert!(watcher.judge_from(genuine.as_bytes(), source, now).is_ok());
    // Its state survives new keys.
    watcher.replace_clients(Duration::from_secs(30), [WatchedKey::of(&set, KeyLimit::default())]);
    assert_eq!(passed(&mut watcher, &thief, source, now), 127);
    // The same address again brings no new tokens, another one does.
    watcher.set_usual_source(set.fingerprint, source.unwrap());
    assert_eq!(passed(&mut watcher, &thief, source, now), 0);
    watcher.set_usual_source(set.fingerprint, elsewhere.unwrap());
    assert_eq!(passed(&mut watcher, &thief, elsewhere, now), 128);
    // A second brings 100 for any address, however low the limit of the client is.
    let later = Now { steady: now.steady.plus(Duration::from_secs(1)), ..now };
    assert_eq!(passed(&mut watcher, &thief, source, later), 100);
}

#[test]
fn no_version_is_accepted_in_place_of_the_other() {
    let own = SshKey::new(KINDS[0]);
    let pair = PairSecret::new(Secret::from_bytes(&[7; 32]));
    let old = pair.keys(&"bastion".parse().unwrap());
    let mut server = Server::of(&own);
    let unsigned = Datagram::seal(&knock(NOW), &old.client()).unwrap();
    assert_eq!(server.outcome(unsigned.as_bytes(), SOURCE), "UnknownHint");
    // Keys of one version make no knock of the other.
    assert!(Datagram::seal(&knock(NOW), &keys(7).client()).is_err());
    assert!(UnsignedKnock::new(&knock(NOW), &old.client(), &own.public).is_err());

    let policy =
        policy::policy([("open-ssh", policy::open("tcp/22"))], [client("a", &old, None, Touch::Present)]);
    let mut server = Server::new(NOW, policy, &[&old], ReplayMemory::new(Timestamp::default()));
    let signed = own.seal(&knock(NOW), &keys(7).client());
    assert_eq!(server.outcome(signed.as_bytes(), SOURCE), "UnknownHint");
    assert_eq!(server.outcome(unsigned.as_bytes(), SOURCE), "granted");
}

#[test]
fn a_client_with_a_public_key_has_no_port_sequences() {
    let own = SshKey::new(KINDS[0]);
    let mut server = Server::of(&own);
    server.watcher.watch_range(KnockRange::USUAL, RandomState::new());
    let old = PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&"bastion".parse().unwrap());
    let ports = old.client().ports.unwrap();
    let step = TimeStep::of(server.now.wall);
    let source: SocketAddr = SOURCE.parse().unwrap();
    let proven =
        proof(&ports.proof, step, Some(source.ip()), &"open-ssh".parse().unwrap(), KnockRange::USUAL);
    for port in sequence(selector(&ports.selector, step, KnockRange::USUAL), &proven) {
        server.watcher.record_hit(source, "192.0.2.1".parse().unwrap(), port, server.now.steady);
    }
    assert!(server.watcher.next_sequence(server.now).is_none());
    // Nor does the keeper accept any from a compromised watcher.
    let all = (0..8_u16).map(|slice| KnockRange::USUAL.port(slice.into(), 1)).collect();
    let claimed = spa_knock_core::auth::PortSequence::from_watcher(keys(7).fingerprint, step, source, all);
    assert!(server.keeper.judge_sequence(&claimed, server.now).is_empty());
}

#[test]
fn a_counter_that_falls_is_refused_until_power_is_lost() {
    for kind in [KINDS[2], KINDS[3]] {
        let own = SshKey::new(kind);
        let mut server = Server::of(&own);
        let send = |server: &mut Server, ms, counter| {
            server.outcome(own.seal_as(&knock(ms), &keys(7).client(), PRESENT, counter).as_bytes(), SOURCE)
        };
        assert_eq!(send(&mut server, NOW, 7), "granted");
        assert_eq!(send(&mut server, NOW + 1, 7), "granted", "a device that does not count");
        assert_eq!(send(&mut server, NOW + 2, 6), "counter");
        assert_eq!(send(&mut server, NOW - 1, 6), "granted", "older knocks are not compared");
        assert_eq!(send(&mut server, NOW + 3, 8), "granted");
        // The memory of a daemon that is started again from its journal has the same counters.
        let mut restored = ReplayMemory::new(Timestamp::default());
        server.keeper.replay().acceptances().for_each(|acceptance| restored.restore(&acceptance));
        for (key, timestamp, counter) in server.keeper.replay().counters() {
            restored.restore_counter(key, timestamp, counter);
        }
        let mut again = Server::of(&own);
        let policy = policy::policy(
            [("open-ssh", policy::open("tcp/22"))],
            [client("laptop", &keys(7), Some(&own.public), Touch::Present)],
        );
        again.keeper = Keeper::new(policy, restored);
        assert_eq!(send(&mut again, NOW + 4, 7), "counter");
        assert_eq!(send(&mut Server::of(&own), NOW + 4, 0), "granted", "after a power loss");
    }
}

#[test]
fn a_new_public_key_has_a_counter_of_its_own() {
    let [old, new] = [SshKey::new(KINDS[2]), SshKey::new(KINDS[2])];
    let mut server = Server::of(&old);
    let sealed = |key: &SshKey, ms, counter| key.seal_as(&knock(ms), &keys(7).client(), PRESENT, counter);
    assert_eq!(server.outcome(sealed(&old, NOW, 1_000).as_bytes(), SOURCE), "granted");
    server.keeper.replace_policy(policy::policy(
        [("open-ssh", policy::open("tcp/22"))],
        [client("laptop", &keys(7), Some(&new.public), Touch::Present)],
    ));
    assert_eq!(server.outcome(sealed(&old, NOW + 1, 1_001).as_bytes(), SOURCE), "signature");
    assert_eq!(server.outcome(sealed(&new, NOW + 1, 1).as_bytes(), SOURCE), "granted");
    assert_eq!(server.outcome(sealed(&new, NOW + 2, 0).as_bytes(), SOURCE), "counter");
}

#[test]
fn the_flags_of_a_device_are_judged_as_a_table_of_all_of_them() {
    let faults = |touch: Touch| {
        let all = (0..=u8::MAX).filter(|flags| touch.check(FidoData { flags: *flags, counter: 0 }).is_ok());
        all.collect::<Vec<u8>>()
    };
    // Bits 1, 3, 4 and 5 are ignored.
    let naive = |required: u8| {
        let text = |flags: &u8| format!("{flags:08b}");
        let is_fine = |flags: &u8| {
            let bits = text(flags);
            bits.starts_with("00") && bits.ends_with('1') && (required == 0 || bits.as_bytes()[5] == b'1')
        };
        (0..=u8::MAX).filter(is_fine).collect::<Vec<u8>>()
    };
    assert_eq!(faults(Touch::Present), naive(0));
    assert_eq!(faults(Touch::Pin), naive(1));
    assert_eq!((faults(Touch::Present).len(), faults(Touch::Pin).len()), (32, 16));
}

#[test]
fn every_changed_bit_of_a_signed_body_is_refused() {
    for kind in KINDS {
        let own = SshKey::new(kind);
        let mut server = Server::of(&own);
        let client = keys(7).client();
        let genuine = own.seal(&knock(NOW), &client).as_bytes().to_vec();
        let bits = (Envelope::read(&genuine).unwrap().sealed.len() - 16) * 8;
        for bit in 0..bits {
            // A token for each failure; the time of the knock stays the same.
            server.now.steady = server.now.steady.plus(Duration::from_millis(20));
            let changed = forged(&genuine, &client, |body| body[bit / 8] ^= 1 << (bit % 8));
            let outcome = server.outcome(&changed, SOURCE);
            // The timestamp is read first.
            assert!(
                outcome == "signature" || outcome == "stale" && (16..80).contains(&bit),
                "bit {bit}: {outcome}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is signed is read as it was written, in a body whose length depends on the content as the protocol specifies.
    #[test]
    fn a_signed_knock_is_read_as_it_was_written(
        action in "[a-z0-9_-]{1,32}",
        argument in "[ -~]{0,80}",
        seconds: u32,
        otp in proptest::option::of(0..u32::MAX),
        padding in 0_u8..=63,
        kind in 0_usize..4,
        nonce: [u8; 12],
    ) {
        let key = SshKey::new(KINDS[kind]);
        let client = keys(7).client();
        let sent = Knock {
            action: action.parse().unwrap(), argument: argument.parse().unwrap(), seconds, otp, ..knock(NOW)
        };
        let unsigned = UnsignedKnock::with(&sent, &client, &key.public, nonce, padding).unwrap();
        let signature = key.sign(unsigned.message(), PRESENT, 0);
        let datagram = unsigned.seal(&signature, &client).unwrap();
        // The oracle counts: 41 bytes, both texts, the signature.
        let content = 41 + action.len() + argument.len() + if kind < 2 { 64 } else { 69 };
        let body = if content <= 160 { 160 + usize::from(padding) } else { 223 };
        prop_assert_eq!(datagram.as_bytes().len(), 8 + 12 + body + 16 + 32);
        let keeper = keys(7).keeper();
        let signed = Envelope::read(datagram.as_bytes()).unwrap().open_signed(&keeper).unwrap();
        let verified = signed.verify(&key.public, keeper.message.as_ref().unwrap()).unwrap();
        prop_assert_eq!(verified.body.understand(), Ok(&sent));
        let other = SshKey::new(KINDS[kind]);
        prop_assert!(signed.verify(&other.public, keeper.message.as_ref().unwrap()).is_err());
    }
}
