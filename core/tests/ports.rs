//! Port sequences from packets to an authorized knock, with the real watcher and keeper.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests count, invent times, read the environment, and may fail loudly"
)]

mod policy;

use std::collections::{BTreeSet, HashSet};
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use policy::{client, open, policy};
use spa_knock_core::auth::{
    Accepted, ActionPart, AuditEvent, Authorized, Decision, Keeper, KeyLimit, Policy, PortSequence, Refusal,
    Rejection, ReplayDomain, ReplayMemory, Uses, Via, WatchedKey, Watcher,
};
use spa_knock_core::crypto::{KeySet, random};
use spa_knock_core::knock::{ActionName, AddressPolicy, KnockRange, Now, SLICE, Steady, TimeStep, Timestamp};
use spa_knock_core::wire::{proof, selector, sequence};

const NOW: u64 = 1_795_331_877_123;
const RANGE: KnockRange = KnockRange::USUAL;
const TO: &str = "192.0.2.1";
const SOURCE: &str = "203.0.113.9:4000";

/// Whether to use larger numbers, which take longer.
fn full() -> bool {
    std::env::var_os("SPA_KNOCK_FULL").is_some_and(|value| value == "1")
}

fn keys(secret: u8) -> KeySet {
    policy::keys([secret; 32])
}

fn name(text: &str) -> ActionName {
    text.parse().unwrap()
}

fn step() -> TimeStep {
    TimeStep::of(Timestamp::from_millis(NOW))
}

struct Server {
    watcher: Watcher,
    keeper: Keeper,
    now: Now,
}

fn policy_for(clients: &[(u8, &[&str])]) -> Policy {
    let argument = ActionPart::OpenArgument { allowed: vec!["tcp/80".parse().unwrap()], uses: Uses::Many };
    let actions = [("open-ssh", open("tcp/22")), ("open-web", open("tcp/443")), ("open-port", argument)];
    let client = |&(secret, allow): &(u8, &[&str])| client(&format!("client-{secret}"), &keys(secret), allow);
    policy(actions, clients.iter().map(client))
}

const ONE_CLIENT: &[(u8, &[&str])] = &[(7, &["open-ssh", "open-web", "open-port"])];

/// A keeper that was started an hour ago.
fn keeper(clients: &[(u8, &[&str])]) -> Keeper {
    Keeper::new(policy_for(clients), ReplayMemory::new(Timestamp::from_millis(NOW - 3_600_000)))
}

impl Server {
    fn new(clients: &[(u8, &[&str])]) -> Self {
        let watched =
            clients.iter().map(|&(secret, _)| keys(secret)).map(|k| WatchedKey::of(&k, KeyLimit::UNLIMITED));
        let mut watcher = Watcher::new(Duration::from_secs(30), watched);
        watcher.watch_range(RANGE, RandomState::new());
        let now = Now {
            wall: Timestamp::from_millis(NOW),
            steady: Steady::from_duration(Duration::from_secs(1_000)),
        };
        Self { watcher, keeper: keeper(clients), now }
    }

    fn with_one_client() -> Self {
        Self::new(ONE_CLIENT)
    }

    fn advance(&mut self, time: Duration) {
        self.now.wall = self.now.wall.plus(time);
        self.now.steady = self.now.steady.plus(time);
    }

    /// The sequences that the watcher passes on for these simultaneous packets.
    fn watch(&mut self, source: &str, ports: &[u16]) -> Vec<PortSequence> {
        let source: SocketAddr = source.parse().unwrap();
        let mut passed = Vec::new();
        for &port in ports {
            self.watcher.record_hit(source, TO.parse().unwrap(), port, self.now.steady);
            passed.extend(std::iter::from_fn(|| self.watcher.next_sequence(self.now)));
        }
        passed
    }

    fn decide(&mut self, result: Result<Accepted, Refusal>) -> Result<Authorized, Box<Refusal>> {
        let accepted = result?;
        assert_eq!(accepted.acceptance().domain, ReplayDomain::Ports);
        match self.keeper.decide(accepted, self.now) {
            Decision::Execute(authorized) => Ok(authorized),
            Decision::Refuse(refusal) => Err(Box::new(refusal)),
            Decision::Commit(uncommitted) => Ok(uncommitted.committed()),
        }
    }

    /// The final results of these packets.
    fn receive(&mut self, source: &str, ports: &[u16]) -> Vec<Result<Authorized, Box<Refusal>>> {
        let mut results = Vec::new();
        for sequence in self.watch(source, ports) {
            for result in self.keeper.judge_sequence(&sequence, self.now) {
                results.push(self.decide(result));
            }
        }
        results
    }

    fn opens(&mut self, source: &str, ports: &[u16]) -> usize {
        self.receive(source, ports).into_iter().filter(Result::is_ok).count()
    }
}

fn ports(secret: u8, step: TimeStep, address: Option<&str>, action: &str) -> [u16; 8] {
    let client = keys(secret).client().ports.unwrap();
    let address = address.map(|address| address.parse().unwrap());
    let proof = proof(&client.proof, step, address, &name(action), RANGE);
    sequence(selector(&client.selector, step, RANGE), &proof)
}

/// `open-ssh`, *exact*.
fn good() -> [u16; 8] {
    ports(7, step(), Some("203.0.113.9"), "open-ssh")
}

fn only<T>(mut list: Vec<T>) -> T {
    assert_eq!(list.len(), 1);
    list.pop().unwrap()
}

/// splitmix64, so that a failing case can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn shuffle(&mut self, ports: &mut [u16]) {
        for at in (1..ports.len()).rev() {
            ports.swap(at, usize::try_from(self.roll(u64::try_from(at).unwrap() + 1)).unwrap());
        }
    }
}

/// Calls `each` with every order of eight ports, by Heap's algorithm.
fn permutations(ports: &mut [u16; 8], k: usize, each: &mut impl FnMut(&[u16; 8])) {
    if k == 1 {
        return each(ports);
    }
    for i in 0..k {
        permutations(ports, k - 1, each);
        let other = if k.is_multiple_of(2) { i } else { 0 };
        if i + 1 < k {
            ports.swap(other, k - 1);
        }
    }
}

#[test]
fn a_sequence_opens_for_its_source_address_and_proves_client_and_action() {
    let mut server = Server::with_one_client();
    let Ok(authorized) = only(server.receive(SOURCE, &good())) else { panic!("refused") };
    let record = authorized.context().record(AuditEvent::Granted, None);
    assert_eq!((record.client.as_str(), record.via), ("client-7", Some(Via::Ports)));
    assert_eq!(record.action, Some(name("open-ssh")));
    assert_eq!(record.addresses, ["203.0.113.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(record.source, SOURCE.parse().ok());
    let [_, _, rest @ ..] = good();
    let id = proof(
        &keys(7).client().ports.unwrap().proof,
        step(),
        "203.0.113.9".parse().ok(),
        &name("open-ssh"),
        RANGE,
    );
    assert_eq!((record.knock, id.ports), (Some(id.id), rest));
    assert_eq!(authorized.context().moment(), (ReplayDomain::Ports, step().begin()));
    assert!(!authorized.context().wants_reply());
}

#[test]
fn a_watcher_that_prepares_in_advance_recognizes_the_same_sequences_of_the_same_clients() {
    for prepares in [false, true] {
        let mut server = Server::with_one_client();
        for later in 0..4 {
            if prepares {
                server.watcher.prepare(server.now.wall);
            }
            server.advance(Duration::from_secs(30));
            let now = TimeStep::of(server.now.wall);
            for (secret, opens) in [(7, 1), (8, 0)] {
                let source = format!("203.0.113.9:{}", 4_000 + later);
                let opened = server.opens(&source, &ports(secret, now, Some("203.0.113.9"), "open-ssh"));
                assert_eq!(opened, opens, "prepares: {prepares}, step {later}, key {secret}");
            }
        }
    }
}

#[test]
fn a_client_may_use_only_the_address_policies_that_its_ports_prove() {
    let cases = [
        (AddressPolicy::Exact, Some("203.0.113.9"), true),
        (AddressPolicy::Exact, None, false),
        (AddressPolicy::Observed, Some("203.0.113.9"), false),
        (AddressPolicy::Observed, None, true),
    ];
    for (allowed, address, opens) in cases {
        let mut server = Server::with_one_client();
        let mut policy = policy_for(ONE_CLIENT);
        policy.clients[0].rules.sources = [allowed].into();
        server.keeper.replace_policy(policy);
        let ports = ports(7, step(), address, "open-ssh");
        let sequence = only(server.watch(SOURCE, &ports));
        let hit: BTreeSet<_> = sequence.ports().iter().copied().collect();
        assert_eq!(hit, ports.into_iter().collect());
        let results: Vec<_> = server.keeper.judge_sequence(&sequence, server.now);
        let decided: Vec<_> = results.into_iter().map(|result| server.decide(result)).collect();
        assert_eq!(
            decided.iter().filter(|result| result.is_ok()).count(),
            usize::from(opens),
            "{allowed} {address:?}"
        );
        let refused = decided.iter().filter_map(|result| result.as_ref().err());
        assert!(refused.into_iter().all(|refusal| refusal.rejection
            == Rejection::PolicyNotAllowed(if address.is_some() {
                AddressPolicy::Exact
            } else {
                AddressPolicy::Observed
            })));
    }
}

#[test]
fn every_order_of_the_ports_is_accepted() {
    let mut dice = Dice(1);
    // A new address each time, so that the orders are independent; observed, so that the ports are the same.
    let base = ports(7, step(), None, "open-ssh");
    let mut orders = Vec::new();
    permutations(&mut base.clone(), 8, &mut |order| orders.push(*order));
    assert_eq!(orders.iter().collect::<HashSet<_>>().len(), 40_320);
    let every = if full() { 1 } else { 8 };
    let mut server = Server::with_one_client();
    for (n, order) in (0_u32..).zip(orders.into_iter().filter(|_| dice.roll(every) == 0)) {
        let source = format!("{}:4000", std::net::Ipv4Addr::from(0x0A00_0000 + n));
        // An accepted sequence is remembered, so each order gets another keeper. The watcher is the same.
        server.keeper = keeper(ONE_CLIENT);
        assert_eq!(server.opens(&source, &order), 1, "{order:?}");
        // A thousand per second; the wall clock stays in the same time step.
        server.now.steady = server.now.steady.plus(Duration::from_millis(1));
    }
}

#[test]
fn seven_ports_are_not_enough_and_a_changed_port_is_refused() {
    for left_out in 0..8 {
        let seven: Vec<u16> =
            good().into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, p)| p).collect();
        let mut server = Server::with_one_client();
        assert_eq!(server.opens(SOURCE, &seven), 0);
        let numbers: Vec<u16> = if full() { (0..SLICE).collect() } else { (0..SLICE).step_by(13).collect() };
        for number in numbers {
            let other = RANGE.port(left_out, number);
            if other == good()[left_out] {
                continue;
            }
            let mut changed = good();
            changed[left_out] = other;
            assert_eq!(Server::with_one_client().opens(SOURCE, &changed), 0, "{left_out} {other}");
        }
        assert_eq!(server.opens(SOURCE, &good()), 1, "with the missing port");
    }
}

#[test]
fn a_scan_of_the_knock_range_opens_nothing_and_its_source_can_knock_ten_seconds_later() {
    let ascending: Vec<u16> = (RANGE.low()..=RANGE.high()).collect();
    let descending: Vec<u16> = ascending.iter().rev().copied().collect();
    let mut shuffled = ascending.clone();
    Dice(2).shuffle(&mut shuffled);
    // The order of a scanner that knows the slices.
    let across: Vec<u16> = (0..SLICE).flat_map(|n| (0..8).map(move |slice| RANGE.port(slice, n))).collect();
    for scan in [ascending, descending, shuffled, across] {
        for pause in [Duration::ZERO, Duration::from_millis(1)] {
            let mut server = Server::with_one_client();
            let mut opened = 0;
            for port in &scan {
                opened += server.opens(SOURCE, &[*port]);
                server.advance(pause);
            }
            assert_eq!(opened, 0);
            server.advance(Duration::from_secs(10));
            let step = TimeStep::of(server.now.wall);
            let mut good = ports(7, step, Some("203.0.113.9"), "open-ssh").to_vec();
            Dice(3).shuffle(&mut good);
            assert_eq!(server.opens(SOURCE, &good), 1);
        }
    }
}

#[test]
fn sixteen_other_ports_do_not_spoil_a_sequence_and_seventeen_do_for_ten_seconds() {
    for (others, opened) in [(16, 1), (17, 0)] {
        let mut server = Server::with_one_client();
        let unrelated: Vec<u16> =
            (0..8 * SLICE).map(|n| RANGE.low() + n).filter(|p| !good().contains(p)).take(others).collect();
        assert_eq!(server.opens(SOURCE, &unrelated), 0);
        assert_eq!(server.opens(SOURCE, &good()), opened, "{others}");
        server.advance(Duration::from_millis(9_999));
        let again = ports(7, step(), None, "open-web");
        if opened == 0 {
            assert_eq!(server.opens(SOURCE, &again), 0, "still ignored");
            server.advance(Duration::from_millis(1));
            assert_eq!(server.opens(SOURCE, &again), 1);
        }
    }
}

#[test]
fn replayed_packets_have_no_effect_in_this_time_step_or_later() {
    let mut server = Server::with_one_client();
    assert_eq!(server.opens(SOURCE, &good()), 1);
    for _ in 0..8 {
        assert!(server.receive(SOURCE, &good()).is_empty(), "no result");
        server.advance(Duration::from_millis(11_000));
        assert!(server.receive(SOURCE, &good()).is_empty(), "no result");
    }
    let sequence =
        PortSequence::from_watcher(keys(7).fingerprint, step(), SOURCE.parse().unwrap(), good().to_vec());
    server.now.wall = Timestamp::from_millis(NOW);
    assert!(server.keeper.judge_sequence(&sequence, server.now).is_empty(), "with the clock set back");
}

#[test]
fn an_exact_sequence_from_another_address_has_no_effect_and_an_observed_one_admits_that_address() {
    let mut server = Server::with_one_client();
    assert_eq!(server.opens("198.51.100.7:4000", &good()), 0);
    assert_eq!(server.opens(SOURCE, &good()), 1, "not consumed by the one who copied it");
    let observed = ports(7, step(), None, "open-ssh");
    let Ok(authorized) = only(server.receive("198.51.100.7:4000", &observed)) else { panic!("refused") };
    assert_eq!(
        authorized.context().record(AuditEvent::Granted, None).addresses,
        ["198.51.100.7".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn a_sequence_is_valid_from_the_preceding_to_the_following_time_step() {
    for (ahead, opened) in [(-2_i64, 0), (-1, 1), (0, 1), (1, 1), (2, 0)] {
        let mut server = Server::with_one_client();
        let step = TimeStep::new(step().number().saturating_add_signed(ahead));
        let ports = ports(7, step, None, "open-ssh");
        assert_eq!(server.opens(SOURCE, &ports), opened, "{ahead}");
        // A watcher that passes it on at another time is not trusted.
        let sequence =
            PortSequence::from_watcher(keys(7).fingerprint, step, SOURCE.parse().unwrap(), ports.to_vec());
        assert_eq!(keeper(ONE_CLIENT).judge_sequence(&sequence, server.now).len(), opened, "{ahead}");
    }
}

#[test]
fn an_action_that_is_not_allowed_has_no_effect_and_one_that_needs_an_argument_is_refused() {
    let mut server = Server::new(&[(7, &["open-ssh", "open-port"]), (8, &["open-web"])]);
    assert!(server.receive(SOURCE, &ports(7, step(), None, "open-web")).is_empty());
    assert!(
        server.receive("203.0.113.10:1", &ports(9, step(), None, "open-ssh")).is_empty(),
        "an unknown client"
    );
    let Err(refusal) = only(server.receive("203.0.113.11:1", &ports(7, step(), None, "open-port"))) else {
        panic!("authorized")
    };
    assert_eq!(refusal.rejection.reason().as_str(), "bad-argument");
    assert_eq!(refusal.record.unwrap().via, Some(Via::Ports));
    assert!(refusal.reply.is_none());
    assert_eq!(server.opens("203.0.113.12:1", &ports(8, step(), None, "open-web")), 1);
}

#[test]
fn two_actions_within_ten_seconds_both_open_once() {
    let mut server = Server::with_one_client();
    assert_eq!(server.opens(SOURCE, &good()), 1);
    assert_eq!(server.opens(SOURCE, &ports(7, step(), Some("203.0.113.9"), "open-web")), 1);
    assert_eq!(server.opens(SOURCE, &good()), 0);
}

#[test]
fn three_clients_behind_one_address_can_knock_within_ten_seconds_but_not_four() {
    let mut server =
        Server::new(&[(1, &["open-ssh"]), (2, &["open-ssh"]), (3, &["open-ssh"]), (4, &["open-ssh"])]);
    let opened: Vec<usize> =
        (1..=4).map(|client| server.opens(SOURCE, &ports(client, step(), None, "open-ssh"))).collect();
    assert_eq!(opened, [1, 1, 1, 0]);
    server.advance(Duration::from_secs(10));
    assert_eq!(server.opens(SOURCE, &ports(4, step(), None, "open-ssh")), 1);
}

#[test]
fn all_clients_with_the_same_selector_are_checked() {
    // The first two ports of two clients are hardly ever equal; if they are, the keeper gets both. Here: two clients at
    // one address.
    let mut server = Server::new(&[(7, &["open-ssh"]), (8, &["open-ssh"])]);
    let both: Vec<u16> = [ports(7, step(), None, "open-ssh"), ports(8, step(), None, "open-ssh")].concat();
    let passed = server.watch(SOURCE, &both);
    let named: BTreeSet<_> = passed.iter().map(PortSequence::fingerprint).collect();
    assert_eq!(named, BTreeSet::from([keys(7).fingerprint, keys(8).fingerprint]));
    let mut opened = 0;
    for sequence in passed {
        for result in server.keeper.judge_sequence(&sequence, server.now) {
            opened += usize::from(server.decide(result).is_ok());
        }
    }
    assert_eq!(opened, 2);
}

#[test]
fn at_most_a_thousand_sequences_a_second_are_passed_on_and_no_queued_one_is_lost() {
    let mut server = Server::with_one_client();
    let observed = ports(7, step(), None, "open-ssh");
    let to = TO.parse().unwrap();
    for n in 0..1_500_u32 {
        let source = SocketAddr::new(std::net::Ipv4Addr::from(0x0A00_0000 + n).into(), 4_000);
        observed.iter().for_each(|&port| server.watcher.record_hit(source, to, port, server.now.steady));
    }
    let take = |server: &mut Server| std::iter::from_fn(|| server.watcher.next_sequence(server.now)).count();
    assert_eq!(take(&mut server), 1_000, "the size of the queue");
    assert!(!server.watcher.has_sequences());
    // The client's resend arrives a little later.
    server.advance(Duration::from_millis(60));
    for n in 1_000..1_500_u32 {
        let source = SocketAddr::new(std::net::Ipv4Addr::from(0x0A00_0000 + n).into(), 4_000);
        observed.iter().for_each(|&port| server.watcher.record_hit(source, to, port, server.now.steady));
    }
    assert_eq!(take(&mut server), 0, "the rate is exhausted");
    assert!(server.watcher.has_sequences());
    server.advance(Duration::from_millis(940));
    assert_eq!(take(&mut server), 500);
}

#[test]
fn an_observer_of_one_client_exhausts_the_limit_of_that_client_only() {
    let mut server = Server::new(&[(7, &["open-ssh"]), (8, &["open-ssh"])]);
    let watched = [7, 8].map(|secret| WatchedKey::of(&keys(secret), KeyLimit::default()));
    server.watcher.replace_clients(Duration::from_secs(30), watched);
    let observed = ports(7, step(), None, "open-ssh");
    let sources = (1..=200).map(|n| format!("10.1.0.{n}:4000"));
    let passed: usize = sources.map(|source| server.watch(&source, &observed).len()).sum();
    assert_eq!(passed, 128);
    assert_eq!(server.watcher.counts().throttled, 72);
    assert_eq!(server.opens(SOURCE, &ports(8, step(), None, "open-ssh")), 1);
    server.advance(Duration::from_secs(1));
    assert_eq!(server.opens("10.2.0.1:4000", &observed), 1, "four per second are refilled");
}

#[test]
fn at_most_two_thousand_guesses_of_a_watcher_are_checked_per_second() {
    let mut server = Server::with_one_client();
    let (key, source) = (keys(7).fingerprint, SOURCE.parse().unwrap());
    let guess: Vec<u16> = (0..8).flat_map(|slice| (0..3).map(move |n| RANGE.port(slice, n))).collect();
    for _ in 0..2_000 {
        let sequence = PortSequence::from_watcher(key, step(), source, guess.clone());
        assert!(server.keeper.judge_sequence(&sequence, server.now).is_empty());
    }
    let sequence = PortSequence::from_watcher(key, step(), source, good().to_vec());
    assert!(server.keeper.judge_sequence(&sequence, server.now).is_empty());
    server.advance(Duration::from_secs(1));
    assert_eq!(server.keeper.judge_sequence(&sequence, server.now).len(), 1);
}

#[test]
fn both_sides_agree_for_any_key_time_address_and_action() {
    let times = if full() { 100_000 } else { 2_000 };
    let mut dice = Dice(u64::from_be_bytes(random().unwrap()));
    println!("seed {}", dice.0);
    let mut watched = None;
    for n in 0..times {
        let mut secret = [0; 32];
        secret.iter_mut().for_each(|byte| *byte = u8::try_from(dice.roll(256)).unwrap());
        let keys = policy::keys(secret);
        let now = Now {
            wall: Timestamp::from_millis(100_000 + dice.roll(4_000_000_000_000)),
            steady: Steady::from_duration(Duration::from_secs(1_000)),
        };
        let step = TimeStep::new(TimeStep::of(now.wall).number() + dice.roll(3) - 1);
        let source: SocketAddr = if dice.roll(2) == 0 {
            (std::net::Ipv4Addr::from(u32::try_from(dice.roll(1 << 32)).unwrap()), 4_000).into()
        } else {
            (std::net::Ipv6Addr::from((u128::from(dice.roll(u64::MAX)) << 64) + 1), 4_000).into()
        };
        // A table is large, so a hundred cases share one and its knock range.
        if n % 100 == 0 {
            let knock_range = KnockRange::try_from(u16::try_from(1 + dice.roll(57_344)).unwrap()).unwrap();
            let mut watcher = Watcher::new(Duration::from_secs(30), []);
            watcher.watch_range(knock_range, RandomState::new());
            watched = Some((watcher, knock_range));
        }
        let (watcher, knock_range) = watched.as_mut().unwrap();
        let knock_range = *knock_range;
        let length = 1 + dice.roll(32);
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789_-";
        let letter = |dice: &mut Dice| char::from(letters[usize::try_from(dice.roll(38)).unwrap()]);
        let action: String = (0..length).map(|_| letter(&mut dice)).collect();
        let address = (dice.roll(2) == 0).then(|| source.ip());

        let client = keys.client().ports.unwrap();
        let made = proof(&client.proof, step, address, &name(&action), knock_range);
        let mut ports = sequence(selector(&client.selector, step, knock_range), &made);
        dice.shuffle(&mut ports);

        watcher.replace_clients(Duration::from_secs(30), [WatchedKey::of(&keys, KeyLimit::UNLIMITED)]);
        for port in ports {
            assert!(watcher.next_sequence(now).is_none());
            watcher.record_hit(source, TO.parse().unwrap(), port, now.steady);
        }
        let passed = watcher.next_sequence(now).expect("passed on");
        let policy = Policy {
            knock_range: Some(knock_range),
            ..policy([], [policy::client("laptop", &keys, &[&action])])
        };
        let memory = ReplayMemory::new(Timestamp::from_millis(0));
        let results = Keeper::new(policy, memory).judge_sequence(&passed, now);
        let Ok(accepted) = only(results) else { panic!("not accepted") };
        assert_eq!(accepted.acceptance().id, made.id);
    }
}

#[test]
fn sequences_wait_until_each_client_that_they_identify_was_named_or_replaced() {
    let now = Server::with_one_client().now;
    // Two entries with one key have the same ports.
    let watched = |secrets: &[u8]| {
        let keys = secrets.iter().map(|&secret| keys(secret));
        keys.map(|keys| WatchedKey::of(&keys, KeyLimit::UNLIMITED)).collect::<Vec<_>>()
    };
    for replaced in [false, true] {
        let mut watcher = Watcher::new(Duration::from_secs(30), watched(&[7, 7]));
        watcher.watch_range(RANGE, RandomState::new());
        assert!(!watcher.has_sequences());
        for port in good() {
            watcher.record_hit(SOURCE.parse().unwrap(), TO.parse().unwrap(), port, now.steady);
        }
        assert!(watcher.has_sequences(), "the pair is complete");
        assert_eq!(watcher.next_sequence(now).unwrap().fingerprint(), keys(7).fingerprint);
        assert!(watcher.has_sequences(), "the second entry was not named yet");
        if replaced {
            watcher.replace_clients(Duration::from_secs(30), watched(&[8, 9]));
            assert_eq!(watcher.next_sequence(now), None, "not as a sequence of another client");
        } else {
            assert_eq!(watcher.next_sequence(now).unwrap().fingerprint(), keys(7).fingerprint);
        }
        assert!(!watcher.has_sequences());
    }
}
