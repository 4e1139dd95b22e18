//! Port sequences from packets to an order, through watcher and keeper as they run.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests count, make up times, ask for the environment, and may fail loudly"
)]

mod policy;

use std::collections::{BTreeSet, HashSet};
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use policy::{client, open, policy};
use spa_knock_core::auth::{
    Accepted, ActionPart, AuditEvent, Authorized, Decision, Keeper, KeyLimit, Policy, PortSequence, Refusal,
    ReplayDomain, ReplayMemory, Uses, Via, WatchedKey, Watcher,
};
use spa_knock_core::crypto::{KeySet, random};
use spa_knock_core::knock::{ActionName, KnockRange, Now, SLICE, Steady, TimeStep, Timestamp};
use spa_knock_core::wire::{proof, selector, sequence};

const NOW: u64 = 1_795_331_877_123;
const BAND: KnockRange = KnockRange::USUAL;
const TO: &str = "192.0.2.1";
const SOURCE: &str = "203.0.113.9:4000";

/// Larger numbers, for those who have the time.
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

const USUAL: &[(u8, &[&str])] = &[(7, &["open-ssh", "open-web", "open-port"])];

/// One that was started an hour ago.
fn keeper(clients: &[(u8, &[&str])]) -> Keeper {
    Keeper::new(policy_for(clients), ReplayMemory::new(Timestamp::from_millis(NOW - 3_600_000)))
}

impl Server {
    fn new(clients: &[(u8, &[&str])]) -> Self {
        let watched =
            clients.iter().map(|&(secret, _)| keys(secret)).map(|k| WatchedKey::of(&k, KeyLimit::UNLIMITED));
        let mut watcher = Watcher::new(Duration::from_secs(30), watched);
        watcher.watch_range(BAND, RandomState::new());
        let now = Now {
            wall: Timestamp::from_millis(NOW),
            steady: Steady::from_duration(Duration::from_secs(1_000)),
        };
        Self { watcher, keeper: keeper(clients), now }
    }

    fn usual() -> Self {
        Self::new(USUAL)
    }

    fn pass(&mut self, time: Duration) {
        self.now.wall = self.now.wall.plus(time);
        self.now.steady = self.now.steady.plus(time);
    }

    /// What the watcher passes on of these packets, which come at once.
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
            Decision::Execute(order) => Ok(order),
            Decision::Refuse(refusal) => Err(Box::new(refusal)),
            Decision::Commit(uncommitted) => Ok(uncommitted.committed()),
        }
    }

    /// What comes of these packets in the end.
    fn hear(&mut self, source: &str, ports: &[u16]) -> Vec<Result<Authorized, Box<Refusal>>> {
        let mut ends = Vec::new();
        for sequence in self.watch(source, ports) {
            for result in self.keeper.judge_sequence(&sequence, self.now) {
                ends.push(self.decide(result));
            }
        }
        ends
    }

    fn opens(&mut self, source: &str, ports: &[u16]) -> usize {
        self.hear(source, ports).into_iter().filter(Result::is_ok).count()
    }
}

fn ports(secret: u8, step: TimeStep, address: Option<&str>, action: &str) -> [u16; 8] {
    let client = keys(secret).client();
    let address = address.map(|address| address.parse().unwrap());
    let proof = proof(&client.proof, step, address, &name(action), BAND);
    sequence(selector(&client.selector, step, BAND), &proof)
}

/// `open-ssh`, for the address that it comes from.
fn good() -> [u16; 8] {
    ports(7, step(), Some("203.0.113.9"), "open-ssh")
}

fn only<T>(mut list: Vec<T>) -> T {
    assert_eq!(list.len(), 1);
    list.pop().unwrap()
}

/// splitmix64, so that a failing case can be run again.
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

/// Every order of eight ports, by Heap's algorithm.
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
fn a_sequence_opens_for_the_address_that_it_came_from_and_its_order_says_who_and_how() {
    let mut server = Server::usual();
    let Ok(order) = only(server.hear(SOURCE, &good())) else { panic!("refused") };
    let record = order.context().record(AuditEvent::Granted, None);
    assert_eq!((record.client.as_str(), record.via), ("client-7", Some(Via::Ports)));
    assert_eq!(record.action, Some(name("open-ssh")));
    assert_eq!(record.addresses, ["203.0.113.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(record.source, SOURCE.parse().ok());
    let [_, _, rest @ ..] = good();
    let id = proof(&keys(7).client().proof, step(), "203.0.113.9".parse().ok(), &name("open-ssh"), BAND);
    assert_eq!((record.knock, id.ports), (Some(id.id), rest));
}

#[test]
fn every_order_of_the_ports_is_accepted() {
    let mut dice = Dice(1);
    // A new address each time, so that nothing helps or hinders; observed, so that the ports are the same.
    let base = ports(7, step(), None, "open-ssh");
    let mut orders = Vec::new();
    permutations(&mut base.clone(), 8, &mut |order| orders.push(*order));
    assert_eq!(orders.iter().collect::<HashSet<_>>().len(), 40_320);
    let every = if full() { 1 } else { 8 };
    let mut server = Server::usual();
    for (n, order) in (0_u32..).zip(orders.into_iter().filter(|_| dice.roll(every) == 0)) {
        let source = format!("{}:4000", std::net::Ipv4Addr::from(0x0A00_0000 + n));
        // Accepted once, it is known: another keeper for each, but one watcher.
        server.keeper = keeper(USUAL);
        assert_eq!(server.opens(&source, &order), 1, "{order:?}");
        // A thousand a second; by the calendar it is still the same step.
        server.now.steady = server.now.steady.plus(Duration::from_millis(1));
    }
}

#[test]
fn seven_ports_are_not_enough_and_one_changed_port_is_one_too_many() {
    for left_out in 0..8 {
        let seven: Vec<u16> =
            good().into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, p)| p).collect();
        let mut server = Server::usual();
        assert_eq!(server.opens(SOURCE, &seven), 0);
        let numbers: Vec<u16> = if full() { (0..SLICE).collect() } else { (0..SLICE).step_by(13).collect() };
        for number in numbers {
            let other = BAND.port(left_out, number);
            if other == good()[left_out] {
                continue;
            }
            let mut changed = good();
            changed[left_out] = other;
            assert_eq!(Server::usual().opens(SOURCE, &changed), 0, "{left_out} {other}");
        }
        assert_eq!(server.opens(SOURCE, &good()), 1, "what was missing joins");
    }
}

#[test]
fn a_sweep_of_the_band_opens_nothing_and_the_same_address_can_knock_ten_seconds_later() {
    let ascending: Vec<u16> = (BAND.low()..=BAND.high()).collect();
    let descending: Vec<u16> = ascending.iter().rev().copied().collect();
    let mut shuffled = ascending.clone();
    Dice(2).shuffle(&mut shuffled);
    // As a scanner that knows of the slices would do it.
    let across: Vec<u16> = (0..SLICE).flat_map(|n| (0..8).map(move |slice| BAND.port(slice, n))).collect();
    for sweep in [ascending, descending, shuffled, across] {
        for pause in [Duration::ZERO, Duration::from_millis(1)] {
            let mut server = Server::usual();
            let mut opened = 0;
            for port in &sweep {
                opened += server.opens(SOURCE, &[*port]);
                server.pass(pause);
            }
            assert_eq!(opened, 0);
            server.pass(Duration::from_secs(10));
            let step = TimeStep::of(server.now.wall);
            let mut good = ports(7, step, Some("203.0.113.9"), "open-ssh").to_vec();
            Dice(3).shuffle(&mut good);
            assert_eq!(server.opens(SOURCE, &good), 1);
        }
    }
}

#[test]
fn sixteen_ports_of_others_do_not_spoil_a_sequence_and_seventeen_do_for_ten_seconds() {
    for (others, opened) in [(16, 1), (17, 0)] {
        let mut server = Server::usual();
        let foreign: Vec<u16> =
            (0..8 * SLICE).map(|n| BAND.low() + n).filter(|p| !good().contains(p)).take(others).collect();
        assert_eq!(server.opens(SOURCE, &foreign), 0);
        assert_eq!(server.opens(SOURCE, &good()), opened, "{others}");
        server.pass(Duration::from_millis(9_999));
        let again = ports(7, step(), None, "open-web");
        if opened == 0 {
            assert_eq!(server.opens(SOURCE, &again), 0, "still ignored");
            server.pass(Duration::from_millis(1));
            assert_eq!(server.opens(SOURCE, &again), 1);
        }
    }
}

#[test]
fn the_same_packets_again_do_nothing_in_this_step_and_in_later_ones() {
    let mut server = Server::usual();
    assert_eq!(server.opens(SOURCE, &good()), 1);
    for _ in 0..8 {
        assert!(server.hear(SOURCE, &good()).is_empty(), "in silence");
        server.pass(Duration::from_millis(11_000));
        assert!(server.hear(SOURCE, &good()).is_empty(), "in silence");
    }
    let sequence =
        PortSequence::from_watcher(keys(7).fingerprint, step(), SOURCE.parse().unwrap(), good().to_vec());
    server.now.wall = Timestamp::from_millis(NOW);
    assert!(server.keeper.judge_sequence(&sequence, server.now).is_empty(), "with the clock set back");
}

#[test]
fn from_another_address_an_exact_sequence_is_nothing_and_an_observed_one_lets_that_address_in() {
    let mut server = Server::usual();
    assert_eq!(server.opens("198.51.100.7:4000", &good()), 0);
    assert_eq!(server.opens(SOURCE, &good()), 1, "whoever copied it first has not used it up");
    let observed = ports(7, step(), None, "open-ssh");
    let Ok(order) = only(server.hear("198.51.100.7:4000", &observed)) else { panic!("refused") };
    assert_eq!(
        order.context().record(AuditEvent::Granted, None).addresses,
        ["198.51.100.7".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn a_step_is_good_from_the_one_before_it_to_the_one_after() {
    for (ahead, opened) in [(-2_i64, 0), (-1, 1), (0, 1), (1, 1), (2, 0)] {
        let mut server = Server::usual();
        let step = TimeStep::new(step().number().saturating_add_signed(ahead));
        let ports = ports(7, step, None, "open-ssh");
        assert_eq!(server.opens(SOURCE, &ports), opened, "{ahead}");
        // A watcher that says so without its being so is not believed.
        let sequence =
            PortSequence::from_watcher(keys(7).fingerprint, step, SOURCE.parse().unwrap(), ports.to_vec());
        assert_eq!(keeper(USUAL).judge_sequence(&sequence, server.now).len(), opened, "{ahead}");
    }
}

#[test]
fn what_a_client_may_not_do_is_nothing_and_what_needs_an_argument_is_refused() {
    let mut server = Server::new(&[(7, &["open-ssh", "open-port"]), (8, &["open-web"])]);
    assert!(server.hear(SOURCE, &ports(7, step(), None, "open-web")).is_empty());
    assert!(server.hear("203.0.113.10:1", &ports(9, step(), None, "open-ssh")).is_empty(), "a stranger's");
    let Err(refusal) = only(server.hear("203.0.113.11:1", &ports(7, step(), None, "open-port"))) else {
        panic!("an order")
    };
    assert_eq!(refusal.rejection.reason().as_str(), "bad-argument");
    assert_eq!(refusal.record.unwrap().via, Some(Via::Ports));
    assert!(refusal.reply.is_none());
    assert_eq!(server.opens("203.0.113.12:1", &ports(8, step(), None, "open-web")), 1);
}

#[test]
fn two_actions_within_ten_seconds_open_both_once() {
    let mut server = Server::usual();
    assert_eq!(server.opens(SOURCE, &good()), 1);
    assert_eq!(server.opens(SOURCE, &ports(7, step(), Some("203.0.113.9"), "open-web")), 1);
    assert_eq!(server.opens(SOURCE, &good()), 0);
}

#[test]
fn three_clients_behind_one_address_have_room_within_ten_seconds_and_a_fourth_spoils_it() {
    let mut server =
        Server::new(&[(1, &["open-ssh"]), (2, &["open-ssh"]), (3, &["open-ssh"]), (4, &["open-ssh"])]);
    let opened: Vec<usize> =
        (1..=4).map(|client| server.opens(SOURCE, &ports(client, step(), None, "open-ssh"))).collect();
    assert_eq!(opened, [1, 1, 1, 0]);
    server.pass(Duration::from_secs(10));
    assert_eq!(server.opens(SOURCE, &ports(4, step(), None, "open-ssh")), 1);
}

#[test]
fn clients_with_one_selector_are_all_looked_at() {
    // Two clients' first two ports hardly ever meet; what the keeper gets then is both. Here: one key, two steps.
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
fn no_more_than_a_thousand_are_passed_on_in_a_second_and_none_is_lost_of_those_that_wait() {
    let mut server = Server::usual();
    let observed = ports(7, step(), None, "open-ssh");
    let to = TO.parse().unwrap();
    for n in 0..1_500_u32 {
        let source = SocketAddr::new(std::net::Ipv4Addr::from(0x0A00_0000 + n).into(), 4_000);
        observed.iter().for_each(|&port| server.watcher.record_hit(source, to, port, server.now.steady));
    }
    let take = |server: &mut Server| std::iter::from_fn(|| server.watcher.next_sequence(server.now)).count();
    assert_eq!(take(&mut server), 1_000, "as many as wait");
    assert!(!server.watcher.has_sequences());
    // The client's second round comes a little later.
    server.pass(Duration::from_millis(60));
    for n in 1_000..1_500_u32 {
        let source = SocketAddr::new(std::net::Ipv4Addr::from(0x0A00_0000 + n).into(), 4_000);
        observed.iter().for_each(|&port| server.watcher.record_hit(source, to, port, server.now.steady));
    }
    assert_eq!(take(&mut server), 0, "enough for this second");
    assert!(server.watcher.has_sequences());
    server.pass(Duration::from_millis(940));
    assert_eq!(take(&mut server), 500);
}

#[test]
fn an_observer_of_one_client_uses_up_what_that_client_may_cost_and_no_other() {
    let mut server = Server::new(&[(7, &["open-ssh"]), (8, &["open-ssh"])]);
    let watched = [7, 8].map(|secret| WatchedKey::of(&keys(secret), KeyLimit::default()));
    server.watcher.replace_clients(Duration::from_secs(30), watched);
    let observed = ports(7, step(), None, "open-ssh");
    let sources = (1..=200).map(|n| format!("10.1.0.{n}:4000"));
    let passed: usize = sources.map(|source| server.watch(&source, &observed).len()).sum();
    assert_eq!(passed, 128);
    assert_eq!(server.watcher.counts().throttled, 72);
    assert_eq!(server.opens(SOURCE, &ports(8, step(), None, "open-ssh")), 1);
    server.pass(Duration::from_secs(1));
    assert_eq!(server.opens("10.2.0.1:4000", &observed), 1, "a second earns four");
}

#[test]
fn a_watcher_that_guesses_is_listened_to_two_thousand_times_a_second() {
    let mut server = Server::usual();
    let (key, source) = (keys(7).fingerprint, SOURCE.parse().unwrap());
    let guess: Vec<u16> = (0..8).flat_map(|slice| (0..3).map(move |n| BAND.port(slice, n))).collect();
    for _ in 0..2_000 {
        let sequence = PortSequence::from_watcher(key, step(), source, guess.clone());
        assert!(server.keeper.judge_sequence(&sequence, server.now).is_empty());
    }
    let sequence = PortSequence::from_watcher(key, step(), source, good().to_vec());
    assert!(server.keeper.judge_sequence(&sequence, server.now).is_empty());
    server.pass(Duration::from_secs(1));
    assert_eq!(server.keeper.judge_sequence(&sequence, server.now).len(), 1);
}

#[test]
fn both_sides_agree_whatever_key_time_address_and_action() {
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
        // A table is large: a hundred share one, and its band.
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

        let client = keys.client();
        let made = proof(&client.proof, step, address, &name(&action), knock_range);
        let mut ports = sequence(selector(&client.selector, step, knock_range), &made);
        dice.shuffle(&mut ports);

        watcher.replace_clients(Duration::from_secs(30), [WatchedKey::of(&keys, KeyLimit::UNLIMITED)]);
        for port in ports {
            assert!(watcher.next_sequence(now).is_none());
            watcher.record_hit(source, TO.parse().unwrap(), port, now.steady);
        }
        let passed = watcher.next_sequence(now).expect("it is passed on");
        let policy = Policy {
            knock_range: Some(knock_range),
            ..policy([], [policy::client("laptop", &keys, &[&action])])
        };
        let memory = ReplayMemory::new(Timestamp::from_millis(0));
        let results = Keeper::new(policy, memory).judge_sequence(&passed, now);
        let Ok(accepted) = only(results) else { panic!("it is not accepted") };
        assert_eq!(accepted.acceptance().id, made.id);
    }
}
