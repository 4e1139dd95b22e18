//! What the keeper hands to the daemon beside its verdicts: contexts, records, replies, counts and addresses.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests count freely and may fail loudly"
)]

mod policy;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use spa_knock_core::auth::{
    Accepted, Action, ActionPart, Arguments, AuditCause, AuditEvent, Authentic, Authorized, ClaimNote,
    ClientKey, Decision, Effect, Explanation, Judgment, Keeper, KeyAge, Outcome, PendingReply, Policy,
    Rejection, ReplayDomain, ReplayMemory, Uses, Via,
};
use spa_knock_core::crypto::{KeySet, OtpDigits, OtpHash, OtpSeed, OtpStep};
use spa_knock_core::knock::{
    ActionName, AddressPolicy, Argument, ClientName, Knock, Now, Reply, ReplyStatus, ReplyWanted, Steady,
    Timestamp,
};
use spa_knock_core::wire::{Datagram, open_reply};

const NOW: u64 = 1_795_331_877_123;
const SOURCE: &str = "203.0.113.9:4000";

fn now() -> Now {
    Now { wall: Timestamp::from_millis(NOW), steady: Steady::from_duration(Duration::from_secs(1_000)) }
}

fn keys() -> KeySet {
    policy::keys([7; 32])
}

fn name(text: &str) -> ClientName {
    text.parse().unwrap()
}

fn action(text: &str) -> ActionName {
    text.parse().unwrap()
}

fn client(name: &str) -> ClientKey {
    policy::client(name, &keys(), &["open-ssh", "lamp"])
}

fn policy_of(clients: impl IntoIterator<Item = ClientKey>) -> Policy {
    let lamp = ActionPart::Run {
        argv: vec!["/bin/lamp".parse().unwrap(), "{address}".parse().unwrap()],
        timeout: Duration::from_secs(10),
        undo: None,
        arguments: Arguments::default(),
    };
    policy::policy([("open-ssh", policy::open("tcp/22")), ("lamp", lamp)], clients)
}

fn keeper(client: ClientKey) -> Keeper {
    Keeper::new(policy_of([client]), ReplayMemory::new(Timestamp::from_millis(NOW - 3_600_000)))
}

fn knock() -> Knock {
    Knock {
        timestamp: Timestamp::from_millis(NOW),
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Exact,
        ipv4: Some([203, 0, 113, 9].into()),
        ipv6: None,
        action: action("open-ssh"),
        argument: Argument::none(),
    }
}

fn judge(keeper: &mut Keeper, keys: &KeySet, knock: &Knock, id: u8) -> Judgment {
    let datagram = Datagram::seal_with(knock, &keys.client(), [id; 12], 5).unwrap();
    let authentic = Authentic::from_watcher(keys.fingerprint, datagram.as_bytes()).unwrap();
    keeper.judge(&authentic, SOURCE.parse().unwrap(), now())
}

fn accept(keeper: &mut Keeper, knock: &Knock, id: u8) -> Accepted {
    match judge(keeper, &keys(), knock, id) {
        Judgment::Record(accepted) => accepted,
        Judgment::Refuse(refusal) => panic!("refused: {}", refusal.rejection),
        _ => panic!("not accepted"),
    }
}

fn authorize(keeper: &mut Keeper, knock: &Knock, id: u8) -> Authorized {
    let accepted = accept(keeper, knock, id);
    match keeper.decide(accepted, now()) {
        Decision::Execute(authorized) => authorized,
        Decision::Commit(uncommitted) => uncommitted.committed(),
        Decision::Refuse(refusal) => panic!("refused: {}", refusal.rejection),
    }
}

/// What the client reads.
fn reply_to(keeper: &mut Keeper, pending: Option<PendingReply>, id: u8) -> Reply {
    let bytes = keeper.seal(pending.unwrap(), &[9; 12], now()).unwrap();
    open_reply(&bytes, &keys().client().reply, &[id; 12]).unwrap()
}

#[test]
fn the_context_of_a_knock_states_what_was_asked_and_by_which_client() {
    let source: SocketAddr = SOURCE.parse().unwrap();
    for (address, is_exact) in [(AddressPolicy::Exact, true), (AddressPolicy::Observed, false)] {
        for (reply, wants_reply) in [(ReplyWanted::Yes, true), (ReplyWanted::No, false)] {
            let mut keeper = keeper(client("laptop"));
            let accepted = accept(&mut keeper, &Knock { policy: address, reply, seconds: 45, ..knock() }, 1);
            let acceptance = *accepted.acceptance();
            assert_eq!((acceptance.key, acceptance.id), (keys().fingerprint, [1; 12]));
            assert_eq!((acceptance.domain, acceptance.timestamp), (ReplayDomain::Datagrams, now().wall));
            assert_eq!(accepted.context().knock(), (keys().fingerprint, [1; 12]));

            let Decision::Execute(authorized) = keeper.decide(accepted, now()) else {
                panic!("not authorized")
            };
            let claim = ClaimNote { result: "won", micros: Some(7) };
            let authorized = authorized.with_claim(claim);
            let context = authorized.context();
            assert_eq!((context.client(), context.fingerprint()), (&name("laptop"), keys().fingerprint));
            assert_eq!((context.action(), context.seconds()), (Some(&action("open-ssh")), 45));
            assert_eq!(context.moment(), (ReplayDomain::Datagrams, now().wall));
            assert_eq!((context.is_exact(), context.wants_reply()), (is_exact, wants_reply));

            let record = context.record(AuditEvent::Granted, None);
            assert_eq!(
                (record.event, &record.client, record.key),
                (AuditEvent::Granted, &name("laptop"), KeyAge::Current)
            );
            assert_eq!((record.source, &record.addresses), (Some(source), &vec![source.ip()]));
            assert_eq!(
                (record.knock, record.via, record.claim),
                (Some([1; 12]), Some(Via::Udp), Some(claim))
            );
            assert_eq!((record.action, record.seconds, record.reason), (Some(action("open-ssh")), 45, None));
        }
    }
}

#[test]
fn what_a_knock_consumes_must_be_committed_before_it_is_executed() {
    let seed = OtpSeed::generate(OtpHash::Sha1, OtpDigits::Six).unwrap();
    for (counted, with_code) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut client = client("laptop");
        client.rules.uses = counted.then_some(3);
        client.otp = with_code.then(|| seed.clone());
        let mut keeper = keeper(client);
        let otp = Some(seed.code(OtpStep::of(now().wall)));
        let accepted = accept(&mut keeper, &Knock { otp, ..knock() }, 1);
        match keeper.decide(accepted, now()) {
            Decision::Execute(_) => assert!(!counted && !with_code),
            Decision::Commit(uncommitted) => {
                assert!(counted || with_code);
                assert_eq!(uncommitted.is_counted(), counted);
                assert_eq!(uncommitted.context().knock(), (keys().fingerprint, [1; 12]));
                let code = uncommitted.code().map(|code| (code.key, code.domain, code.timestamp));
                let begin = OtpStep::of(now().wall).begin();
                let expected = (seed.fingerprint(), ReplayDomain::Codes, begin);
                assert_eq!(code, with_code.then_some(expected));
            }
            Decision::Refuse(refusal) => panic!("refused: {}", refusal.rejection),
        }
        assert_eq!(keeper.uses().of(&name("laptop")), u64::from(counted));
    }
}

#[test]
fn a_corrected_use_count_is_the_one_that_the_next_knock_is_measured_by() {
    let mut client = client("laptop");
    client.rules.uses = Some(3);
    let mut keeper = keeper(client);
    keeper.set_uses(&name("laptop"), 2);
    let _ = authorize(&mut keeper, &knock(), 1);
    let accepted = accept(&mut keeper, &knock(), 2);
    assert!(matches!(
        keeper.decide(accepted, now()),
        Decision::Refuse(refusal) if refusal.rejection == Rejection::UsesExhausted
    ));
    assert_eq!(keeper.uses().iter().collect::<Vec<_>>(), [(&name("laptop"), 3)]);
}

#[test]
fn the_uses_of_a_previous_key_are_counted_by_client_and_those_of_the_current_key_are_not() {
    let (old, new) = (keys(), policy::keys([8; 32]));
    let of = |keys: &KeySet, age| ClientKey { age, ..policy::client("laptop", keys, &["open-ssh"]) };
    let other = || policy::client("phone", &policy::keys([9; 32]), &["open-ssh"]);
    let both = || [of(&new, KeyAge::Current), of(&old, KeyAge::Previous), other()];
    let mut keeper = Keeper::new(policy_of(both()), ReplayMemory::new(Timestamp::default()));
    assert_eq!(keeper.name_of(new.fingerprint), Some(&name("laptop")));
    assert_eq!(keeper.name_of(old.fingerprint), Some(&name("laptop")));
    assert_eq!(keeper.name_of(policy::keys([10; 32]).fingerprint), None);
    assert!(keeper.users_of_previous_keys().is_empty());

    let mut send = |keys: &KeySet, id| {
        let Judgment::Record(accepted) = judge(&mut keeper, keys, &knock(), id) else { panic!("refused") };
        assert!(matches!(keeper.decide(accepted, now()), Decision::Execute(_)));
        (keeper.previous_uses(&name("laptop")), keeper.previous_uses(&name("phone")))
    };
    assert_eq!(send(&new, 1), (0, 0));
    assert_eq!(send(&old, 2), (1, 0));
    assert_eq!(send(&old, 3), (2, 0));
    assert_eq!(keeper.users_of_previous_keys(), [(&name("laptop"), 2)]);
    keeper.replace_policy(policy_of([of(&new, KeyAge::Current)]));
    assert!(keeper.users_of_previous_keys().is_empty(), "its previous key is no longer configured");
}

#[test]
fn an_address_that_becomes_one_of_this_host_is_granted_nothing() {
    let mut keeper = keeper(client("laptop"));
    let source: IpAddr = [203, 0, 113, 9].into();
    let _ = authorize(&mut keeper, &knock(), 1);
    keeper.set_own_addresses(BTreeSet::from([source]));
    let accepted = accept(&mut keeper, &knock(), 2);
    assert!(matches!(
        keeper.decide(accepted, now()),
        Decision::Refuse(refusal) if refusal.rejection == Rejection::UnusableAddress
    ));
    keeper.set_own_addresses(BTreeSet::new());
    let _ = authorize(&mut keeper, &knock(), 3);
}

#[test]
fn no_knock_up_to_the_time_of_a_takeover_is_accepted() {
    let mut keeper = keeper(client("laptop"));
    let limit = Timestamp::from_millis(NOW);
    keeper.refuse_until(limit);
    assert_eq!(keeper.replay().floor(), limit);
    let refused = judge(&mut keeper, &keys(), &knock(), 1);
    assert!(matches!(refused, Judgment::Refuse(refusal) if refusal.rejection == Rejection::Replayed));
    let _ = accept(&mut keeper, &Knock { timestamp: Timestamp::from_millis(NOW + 1), ..knock() }, 1);
}

#[test]
fn each_outcome_has_its_record_and_its_reply() {
    for (outcome, event, status, seconds) in [
        (Outcome::Granted, AuditEvent::Granted, ReplyStatus::Granted, 30),
        (Outcome::Started, AuditEvent::Done, ReplyStatus::Done, 30),
        (Outcome::Failed, AuditEvent::Failed, ReplyStatus::ActionFailed, 0),
    ] {
        let mut keeper = keeper(client("laptop"));
        let authorized = authorize(&mut keeper, &knock(), 1);
        let remark = if outcome == Outcome::Failed { "nft failed" } else { "" };
        let (record, pending) = keeper.conclude(authorized.context(), outcome, remark, now());
        let reason = record.reason.map(|reason| (reason.cause, reason.detail));
        let failure = (AuditCause::ActionFailed, "nft failed".to_owned());
        assert_eq!((record.event, reason), (event, (outcome == Outcome::Failed).then_some(failure)));
        let reply = reply_to(&mut keeper, pending, 1);
        assert_eq!((reply.status, reply.seconds, reply.text.as_str()), (status, seconds, ""));

        let (record, pending) = keeper.conclude_started(authorized.context(), outcome, now());
        assert_eq!((record.event, record.reason), (event, None));
        let reply = reply_to(&mut keeper, pending, 1);
        assert_eq!((reply.status, reply.text.as_str()), (status, "started"));

        let pending = keeper.end(authorized.context(), outcome, None, now());
        let reply = reply_to(&mut keeper, pending, 1);
        assert_eq!((reply.status, reply.text.as_str()), (status, "done"));
        let pending = keeper.end(authorized.context(), outcome, Some("exit code 1"), now());
        let reply = reply_to(&mut keeper, pending, 1);
        assert_eq!((reply.status, reply.text.as_str()), (ReplyStatus::ActionFailed, "exit code 1"));
    }
}

#[test]
fn a_knock_that_cannot_be_recorded_or_claimed_fails_and_the_client_learns_why() {
    let why = || Explanation::new(AuditCause::StateUnavailable, "disk full");
    let mut keeper = keeper(ClientKey {
        rules: spa_knock_core::auth::ClientRules { uses: Some(9), ..client("laptop").rules },
        ..client("laptop")
    });
    let accepted = accept(&mut keeper, &knock(), 1);
    let (record, pending) = keeper.give_up(&accepted, why(), now());
    assert_eq!(
        (record.event, record.action, record.reason),
        (AuditEvent::Failed, Some(action("open-ssh")), Some(why()))
    );
    let reply = reply_to(&mut keeper, pending, 1);
    let unrecorded = "the server cannot record the knock";
    assert_eq!((reply.status, reply.text.as_str()), (ReplyStatus::ActionFailed, unrecorded));

    let Decision::Commit(uncommitted) = keeper.decide(accepted, now()) else { panic!("nothing to commit") };
    let (record, pending) = keeper.cancel(&uncommitted, why(), now());
    assert_eq!((record.event, record.reason), (AuditEvent::Failed, Some(why())));
    let reply = reply_to(&mut keeper, pending, 1);
    assert_eq!((reply.status, reply.text.as_str()), (ReplyStatus::ActionFailed, unrecorded));

    let authorized = uncommitted.committed();
    let (record, pending) = keeper.leave_unclaimed(authorized.context(), why(), now());
    assert_eq!((record.event, record.reason), (AuditEvent::Failed, Some(why())));
    let reply = reply_to(&mut keeper, pending, 1);
    let unclaimed = "the fleet store does not answer; try again";
    assert_eq!((reply.status, reply.text.as_str()), (ReplyStatus::ActionFailed, unclaimed));
}

#[test]
fn resends_of_a_postponed_knock_get_nothing_until_its_reply_exists() {
    let mut keeper = keeper(client("laptop"));
    let authorized = authorize(&mut keeper, &knock(), 1);
    keeper.postpone(authorized.context(), now());
    assert!(matches!(judge(&mut keeper, &keys(), &knock(), 1), Judgment::Ignore));
    let (_, pending) = keeper.conclude(authorized.context(), Outcome::Granted, "", now());
    let reply = reply_to(&mut keeper, pending, 1);
    assert_eq!(reply.status, ReplyStatus::Granted);
    assert!(matches!(judge(&mut keeper, &keys(), &knock(), 1), Judgment::Resend(_)));
}

#[test]
fn a_command_runs_for_each_address_and_its_context_names_that_address_alone() {
    let mut listed = client("laptop");
    listed.rules.sources = [AddressPolicy::Listed].into();
    let mut keeper = keeper(listed);
    let both = Knock {
        policy: AddressPolicy::Listed,
        ipv6: Some("2001:db8::7".parse().unwrap()),
        action: action("lamp"),
        ..knock()
    };
    let authorized = authorize(&mut keeper, &both, 1);
    let [Effect::Run { commands, .. }] = authorized.effects() else { panic!("not a command") };
    let of: Vec<_> = commands
        .iter()
        .map(|command| {
            let record = command.context(authorized.context()).record(AuditEvent::Done, None);
            (command.argv()[1].clone(), record.addresses)
        })
        .collect();
    let expected = ["203.0.113.9", "2001:db8::7"].map(|text| (text.to_owned(), vec![text.parse().unwrap()]));
    assert_eq!(of, expected);
}

#[test]
fn an_action_that_names_its_ports_for_one_connection_takes_a_single_port() {
    let ports = ActionPart::OpenArgument { allowed: vec!["tcp/8000-8999".parse().unwrap()], uses: Uses::One };
    let mut policy = policy_of([client("laptop")]);
    policy
        .actions
        .insert(action("lamp"), Action { parts: vec![ports], term: policy.actions[&action("lamp")].term });
    let mut keeper = Keeper::new(policy, ReplayMemory::new(Timestamp::default()));
    for (id, (argument, granted)) in [("tcp/8443", true), ("tcp/8443-8444", false)].into_iter().enumerate() {
        let knock = Knock { action: action("lamp"), argument: argument.parse().unwrap(), ..knock() };
        let accepted = accept(&mut keeper, &knock, u8::try_from(id).unwrap());
        assert_eq!(matches!(keeper.decide(accepted, now()), Decision::Execute(_)), granted, "{argument}");
    }
}

/// The result of this knock from this source, as a text.
fn result(keeper: &mut Keeper, knock: &Knock, source: SocketAddr, id: u8) -> String {
    let datagram = Datagram::seal_with(knock, &keys().client(), [id; 12], 5).unwrap();
    let authentic = Authentic::from_watcher(keys().fingerprint, datagram.as_bytes()).unwrap();
    let decision = match keeper.judge(&authentic, source, now()) {
        Judgment::Record(accepted) => keeper.decide(accepted, now()),
        Judgment::Refuse(refusal) => Decision::Refuse(refusal),
        _ => panic!("neither accepted nor refused"),
    };
    match decision {
        Decision::Execute(authorized) => match authorized.effects() {
            [Effect::Open(grants)] => {
                grants.iter().map(|grant| grant.access().source()).collect::<Vec<_>>().join(" ")
            }
            _ => "run".to_owned(),
        },
        Decision::Commit(_) => panic!("nothing to commit"),
        Decision::Refuse(refusal) => refusal.rejection.to_string(),
    }
}

#[test]
fn a_link_local_address_is_granted_only_on_the_interface_of_its_own_knock() {
    let once = ActionPart::Open { ports: vec!["tcp/22".parse().unwrap()], uses: Uses::One };
    let forward = ActionPart::Forward {
        port: "tcp/80".parse().unwrap(),
        to: vec!["[2001:db8::5]:80".parse().unwrap()],
    };
    let mut client = policy::client("laptop", &keys(), &["open-ssh", "once", "forward"]);
    client.rules.sources = [AddressPolicy::Observed, AddressPolicy::Listed].into();
    let actions = [("open-ssh", policy::open("tcp/22")), ("once", once), ("forward", forward)];
    let mut keeper = Keeper::new(policy::policy(actions, [client]), ReplayMemory::new(Timestamp::default()));
    let unknown = "link-local address on an unknown interface";
    let not_here = "link-local address: not allowed with `once` or `forward`";
    let cases = [
        ("open-ssh", AddressPolicy::Observed, "fe80::1", 3, "fe80::1%3"),
        ("open-ssh", AddressPolicy::Observed, "fe80::1", 0, unknown),
        ("open-ssh", AddressPolicy::Observed, "2001:db8::1", 3, "2001:db8::1"),
        ("open-ssh", AddressPolicy::Listed, "fe80::7", 3, "fe80::7%3"),
        ("open-ssh", AddressPolicy::Listed, "fe80::1", 3, unknown),
        ("once", AddressPolicy::Observed, "fe80::1", 3, not_here),
        ("once", AddressPolicy::Observed, "2001:db8::1", 3, "2001:db8::1"),
        ("forward", AddressPolicy::Observed, "fe80::1", 3, not_here),
        ("forward", AddressPolicy::Observed, "2001:db8::1", 3, "2001:db8::1"),
    ];
    for (id, (name, policy, address, scope, expected)) in (1..).zip(cases) {
        let source = SocketAddr::V6(SocketAddrV6::new(address.parse().unwrap(), 4_000, 0, scope));
        let listed = Some("fe80::7".parse().unwrap()).filter(|_| policy == AddressPolicy::Listed);
        let knock = Knock { policy, ipv4: None, ipv6: listed, action: action(name), ..knock() };
        assert_eq!(result(&mut keeper, &knock, source, id), expected, "{name} {policy} {address} {scope}");
    }
}

#[test]
fn an_argument_that_no_pattern_of_the_action_matches_is_refused_as_such() {
    for (patterns, argument, expected) in [
        (Some("web-*"), "web-1", "run"),
        (Some("web-*"), "db-1", "this action does not accept this argument"),
        (None, "db-1", "run"),
        (None, "a/b", "argument: only A-Z a-z 0-9 ._:@%+=,- (no .., no leading @ or -)"),
    ] {
        let lamp = ActionPart::Run {
            argv: vec!["/bin/lamp".parse().unwrap(), "{argument}".parse().unwrap()],
            timeout: Duration::from_secs(10),
            undo: None,
            arguments: patterns.map_or(Arguments::Names, |one| Arguments::Listed(vec![one.parse().unwrap()])),
        };
        let policy = policy::policy([("lamp", lamp)], [client("laptop")]);
        let mut keeper = Keeper::new(policy, ReplayMemory::new(Timestamp::default()));
        let knock = Knock { action: action("lamp"), argument: argument.parse().unwrap(), ..knock() };
        assert_eq!(
            result(&mut keeper, &knock, SOURCE.parse().unwrap(), 1),
            expected,
            "{patterns:?} {argument}"
        );
    }
}
