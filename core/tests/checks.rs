//! The checks from a datagram to an authorized knock, with the real watcher and keeper.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests count, invent times, and may fail loudly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use spa_knock_core::auth::{
    Action, ActionPart, Arguments, AuditEvent, Authentic, Authorized, ClientKey, ClientRules, Decision,
    Dropped, Effect, Grant, Judgment, Keeper, KeyAge, KeyLimit, Outcome, Policy, Refusal, Rejection,
    ReplayMemory, Template, Term, Uses, WatchedKey, Watcher,
};
use spa_knock_core::crypto::{Fingerprint, KeySet, OtpDigits, OtpHash, OtpSeed, OtpStep, PairSecret, Secret};
use spa_knock_core::knock::{
    ActionName, AddressPolicy, Knock, Now, PortRange, PrefixLengths, Reply, ReplyStatus, ReplyWanted,
    ServerId, Steady, Timestamp,
};
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN, Datagram, open_reply};

/// The client's clock, unless a test sets another.
const NOW: u64 = 1_795_331_877_123;
const WINDOW: Duration = Duration::from_secs(30);
const NOT_NEW: &str = "not new: accepted before, or older than the replay memory";
const SOURCE: &str = "203.0.113.9:4000";

/// The result of an authentic datagram.
enum DatagramResult {
    Execute(Authorized),
    Resend(Vec<u8>),
    Refuse(Refusal),
    Ignore,
}

struct Server {
    watcher: Watcher,
    keeper: Keeper,
    now: Now,
    keys: KeySet,
    nonces: u32,
}

fn server_id() -> ServerId {
    "bastion".parse().unwrap()
}

fn keys(secret: u8) -> KeySet {
    PairSecret::new(Secret::from_bytes(&[secret; 32])).keys(&server_id())
}

fn action(name: &str) -> ActionName {
    name.parse().unwrap()
}

fn rules() -> ClientRules {
    ClientRules {
        allow: ALLOWED.into_iter().map(action).collect(),
        sources: BTreeSet::from([AddressPolicy::Exact, AddressPolicy::Observed]),
        grant_prefix: PrefixLengths::SINGLE,
        rate: None,
        expires: None,
        uses: None,
        key_limit: None,
        grants: 64,
    }
}

/// All actions except open-web.
const ALLOWED: [&str; 12] = [
    "open-twice",
    "open-ssh",
    "open-many",
    "open-once",
    "open-port",
    "to-db",
    "to-web",
    "close-ssh",
    "open-and-run",
    "lamp",
    "stamp",
    "lend",
];

fn policy(rules: ClientRules) -> Policy {
    let argv = |arguments: &[&str]| {
        arguments.iter().map(|argument| argument.parse().unwrap()).collect::<Vec<Template>>()
    };
    let seconds = Duration::from_secs;
    let lasting =
        |part| Action { parts: vec![part], term: Some(Term { usual: seconds(30), max: seconds(600) }) };
    let ports = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<PortRange>>();
    let open = |texts: &[&str]| lasting(ActionPart::Open { ports: ports(texts), uses: Uses::Many });
    let run = |arguments: &[&str], undo| {
        let (argv, timeout, arguments) = (argv(arguments), seconds(10), Arguments::default());
        ActionPart::Run { argv, timeout, undo, arguments }
    };
    let once = |part| Action { parts: vec![part], term: None };
    let lend =
        run(&["/bin/lend", "{client}", "{seconds}"], Some(argv(&["/bin/fetch", "{argument}", "{address}"])));
    let inside = ["10.0.0.5:5432".parse().unwrap()];
    let here = ["0.0.0.0:8080".parse().unwrap()];
    let both = Action {
        parts: vec![open(&["tcp/22"]).parts.remove(0), run(&["/bin/true"], None)],
        ..open(&["tcp/1"])
    };
    let actions = BTreeMap::from([
        (action("open-ssh"), open(&["tcp/22"])),
        (action("open-web"), open(&["tcp/443"])),
        (action("open-many"), open(&["tcp/22", "udp/53", "tcp/8000-8999"])),
        (action("open-once"), lasting(ActionPart::Open { ports: ports(&["tcp/22"]), uses: Uses::One })),
        (
            action("open-port"),
            lasting(ActionPart::OpenArgument {
                allowed: ports(&["tcp/8000-8999", "udp/53"]),
                uses: Uses::Many,
            }),
        ),
        (
            action("to-db"),
            lasting(ActionPart::Forward { port: "tcp/15432".parse().unwrap(), to: inside.to_vec() }),
        ),
        (
            action("to-web"),
            lasting(ActionPart::Forward { port: "tcp/80".parse().unwrap(), to: here.to_vec() }),
        ),
        (action("close-ssh"), once(ActionPart::Close(action("open-ssh")))),
        (action("open-and-run"), both),
        (
            action("open-twice"),
            Action {
                parts: [open(&["tcp/22"]), open(&["udp/53"])].map(|one| one.parts).concat(),
                ..open(&["tcp/1"])
            },
        ),
        (action("lamp"), once(run(&["/bin/lamp", "{argument}", "{address}", "{client}:{port}"], None))),
        (action("stamp"), once(run(&["/bin/stamp", "/tmp/x"], None))),
        (
            action("lend"),
            Action { parts: vec![lend], term: Some(Term { usual: seconds(60), max: seconds(120) }) },
        ),
    ]);
    let keys = keys(7);
    let client = ClientKey {
        name: "laptop".parse().unwrap(),
        fingerprint: keys.fingerprint,
        keys: keys.keeper(),
        signer: None,
        age: KeyAge::Current,
        otp: None,
        rules,
    };
    Policy {
        window: WINDOW,
        reply: true,
        knock_range: None,
        own_addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        actions,
        clients: vec![client],
    }
}

impl Server {
    fn new() -> Self {
        Self::with(rules())
    }

    fn with(rules: ClientRules) -> Self {
        let keys = keys(7);
        Self {
            watcher: Watcher::new(WINDOW, [WatchedKey::of(&keys, KeyLimit::UNLIMITED)]),
            keeper: Keeper::new(policy(rules), ReplayMemory::new(Timestamp::from_millis(NOW - 3_600_000))),
            now: Now {
                wall: Timestamp::from_millis(NOW),
                steady: Steady::from_duration(Duration::from_secs(1_000)),
            },
            keys,
            nonces: 0,
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now.wall = self.now.wall.plus(time);
        self.now.steady = self.now.steady.plus(time);
    }

    /// A datagram with a unique nonce.
    fn seal(&mut self, knock: &Knock) -> Vec<u8> {
        self.nonces += 1;
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.nonces.to_be_bytes());
        Datagram::seal_with(knock, &self.keys.client(), nonce, 5).unwrap().as_bytes().to_vec()
    }

    fn receive(&mut self, datagram: &[u8], source: &str) -> Result<DatagramResult, Dropped> {
        let knock = self.watcher.judge(datagram, self.now)?;
        Ok(match self.keeper.judge(&knock, source.parse().unwrap(), self.now) {
            Judgment::Record(accepted) => match self.keeper.decide(accepted, self.now) {
                Decision::Execute(authorized) => DatagramResult::Execute(authorized),
                Decision::Commit(uncommitted) => DatagramResult::Execute(uncommitted.committed()),
                Decision::Refuse(refusal) => DatagramResult::Refuse(refusal),
            },
            Judgment::Resend(bytes) => DatagramResult::Resend(bytes),
            Judgment::Refuse(refusal) => DatagramResult::Refuse(refusal),
            Judgment::Throttle | Judgment::Ignore => DatagramResult::Ignore,
        })
    }

    /// The result of a datagram as a text.
    fn outcome(&mut self, datagram: &[u8], source: &str) -> String {
        match self.receive(datagram, source) {
            Err(dropped) => format!("{dropped:?}"),
            Ok(DatagramResult::Execute(authorized)) => {
                let (_, reply) = self.keeper.conclude(authorized.context(), Outcome::Granted, "", self.now);
                if let Some(reply) = reply {
                    self.keeper.seal(reply, &[9; 12], self.now).unwrap();
                }
                "act".to_owned()
            }
            Ok(DatagramResult::Resend(_)) => "same reply".to_owned(),
            Ok(DatagramResult::Refuse(refusal)) => refusal.rejection.to_string(),
            Ok(DatagramResult::Ignore) => "nothing".to_owned(),
        }
    }

    fn refusal(&mut self, knock: &Knock, source: &str) -> Refusal {
        let datagram = self.seal(knock);
        match self.receive(&datagram, source).unwrap() {
            DatagramResult::Refuse(refusal) => refusal,
            _ => panic!("not refused"),
        }
    }

    fn authorize(&mut self, knock: &Knock) -> Authorized {
        let datagram = self.seal(knock);
        match self.receive(&datagram, SOURCE).unwrap() {
            DatagramResult::Execute(authorized) => authorized,
            DatagramResult::Refuse(refusal) => panic!("refused: {}", refusal.rejection),
            _ => panic!("no action"),
        }
    }

    fn grants(&mut self, knock: &Knock) -> Vec<Grant> {
        match self.authorize(knock).effects() {
            [Effect::Open(grants)] => grants.clone(),
            _ => panic!("not an Open effect"),
        }
    }

    /// The undo commands, and their delay in seconds.
    fn undo(&mut self, knock: &Knock) -> Option<(Vec<Vec<String>>, u64)> {
        match self.authorize(knock).effects() {
            [Effect::Run { undo, .. }] => undo.as_ref().map(|undo| {
                let argv = undo.commands.iter().map(|command| command.argv().to_vec()).collect();
                (argv, undo.after.as_secs())
            }),
            _ => panic!("not a Run effect"),
        }
    }

    fn commands(&mut self, knock: &Knock) -> Vec<Vec<String>> {
        match self.authorize(knock).effects() {
            [Effect::Run { commands, .. }] => {
                commands.iter().map(|command| command.argv().to_vec()).collect()
            }
            _ => panic!("not a Run effect"),
        }
    }
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
        argument: "".parse().unwrap(),
    }
}

#[test]
fn a_key_gets_its_burst_and_its_refill_without_using_up_those_of_another_key() {
    let mut server = Server::new();
    let [hostile, other] = [keys(7), keys(8)];
    let watched =
        || [&hostile, &other].map(|keys| WatchedKey::of(keys, KeyLimit::new(10, "2/s".parse().unwrap())));
    server.watcher = Watcher::new(WINDOW, watched());
    let knocks: Vec<_> = (0..40).map(|_| server.seal(&knock())).collect();
    let passed = |server: &mut Server, knocks: &[Vec<u8>]| {
        knocks.iter().filter(|knock| server.watcher.judge(knock, server.now).is_ok()).count()
    };
    assert_eq!(passed(&mut server, &knocks), 10);
    assert_eq!(server.watcher.counts().throttled, 30);
    assert_eq!(server.watcher.judge(&knocks[39], server.now).err(), Some(Dropped::Throttled));

    // Duplicates sent by an eavesdropper take no token from the client.
    assert_eq!(passed(&mut server, &knocks[..1]), 1, "a duplicate of a passed datagram");
    let of_other = Datagram::seal(&knock(), &other.client()).unwrap();
    assert!(server.watcher.judge(of_other.as_bytes(), server.now).is_ok(), "another key has its own limit");

    server.advance(Duration::from_secs(1));
    assert_eq!(passed(&mut server, &knocks[10..]), 2, "dropped datagrams can be resent");
    server.watcher.replace_clients(WINDOW, watched());
    assert_eq!(passed(&mut server, &knocks[12..]), 0, "a reload does not refill the limit");

    let mut reported = Vec::new();
    server.watcher.report_throttled(|_, _| false);
    server.watcher.report_throttled(|key, count| {
        reported.push((key, count));
        true
    });
    assert_eq!(reported, [(hostile.fingerprint, server.watcher.counts().throttled)]);
    server.watcher.report_throttled(|_, _| panic!("already reported"));
}

#[test]
fn an_honest_knock_is_granted_once_and_gets_four_replies() {
    let mut server = Server::new();
    let datagram = server.seal(&knock());
    assert_eq!(server.outcome(&datagram, SOURCE), "act");
    for _ in 0..3 {
        assert_eq!(server.outcome(&datagram, SOURCE), "same reply");
    }
    assert_eq!(server.outcome(&datagram, SOURCE), "nothing");
    for elsewhere in ["203.0.113.9:4001", "203.0.113.10:4000", "[2001:db8::1]:4000"] {
        assert_eq!(server.outcome(&datagram, elsewhere), NOT_NEW, "{elsewhere}");
    }
    server.advance(Duration::from_secs(10));
    assert_eq!(server.outcome(&datagram, SOURCE), NOT_NEW);
    for _ in 0..8 {
        let _ = server.outcome(&datagram, SOURCE);
    }
    assert_eq!(server.outcome(&datagram, SOURCE), "Duplicate", "dropped by the watcher");
}

#[test]
fn a_reply_contains_what_the_client_may_know() {
    let mut server = Server::new();
    let datagram = server.seal(&Knock { seconds: 60, ..knock() });
    let Ok(DatagramResult::Execute(authorized)) = server.receive(&datagram, SOURCE) else {
        panic!("not granted")
    };
    let (record, reply) = server.keeper.conclude(authorized.context(), Outcome::Granted, "", server.now);
    assert_eq!((record.event, record.seconds), (AuditEvent::Granted, 60));
    let bytes = server.keeper.seal(reply.unwrap(), &[9; 12], server.now).unwrap();
    let nonce: [u8; 12] = datagram[8..20].try_into().unwrap();
    let reply = open_reply(&bytes, &server.keys.client().reply, &nonce).unwrap();
    let observed: SocketAddr = SOURCE.parse().unwrap();
    assert_eq!(
        reply,
        Reply {
            status: ReplyStatus::Granted,
            server_time: server.now.wall,
            observed: observed.ip(),
            port: observed.port(),
            seconds: 60,
            text: spa_knock_core::knock::ReplyText::default(),
        }
    );
    assert!(bytes.len() <= datagram.len(), "never longer than the knock");
    assert!(matches!(server.receive(&datagram, SOURCE), Ok(DatagramResult::Resend(again)) if again == bytes));
}

#[test]
fn a_knock_gets_no_reply_if_it_requests_none_or_replies_are_disabled() {
    let mut server = Server::new();
    let refusal =
        server.refusal(&Knock { reply: ReplyWanted::No, action: action("none"), ..knock() }, SOURCE);
    assert!(refusal.reply.is_none());
    server.keeper.replace_policy(Policy { reply: false, ..policy(rules()) });
    let refusal = server.refusal(&Knock { action: action("none"), ..knock() }, SOURCE);
    assert!(refusal.reply.is_none() && refusal.record.is_some());
}

#[test]
fn each_check_refuses_with_its_own_message() {
    let open_web = Knock { action: action("open-web"), ..knock() };
    let lamp =
        |argument: &str| Knock { action: action("lamp"), argument: argument.parse().unwrap(), ..knock() };
    let ago = |seconds: u64| Knock { timestamp: Timestamp::from_millis(NOW - seconds * 1_000), ..knock() };
    let ahead = |seconds: u64| Knock { timestamp: Timestamp::from_millis(NOW + seconds * 1_000), ..knock() };
    let cases = [
        ("a stale knock", ago(31), "timestamp is 31 s old", None),
        ("a knock from the future", ahead(31), "timestamp is 31 s in the future", None),
        (
            "another address",
            Knock { ipv4: Some([203, 0, 113, 8].into()), ..knock() },
            "knock names a different address than it came from",
            Some(ReplyStatus::AddressRefused),
        ),
        (
            "exact without an address of its family",
            Knock { ipv4: None, ipv6: Some("2001:db8::1".parse().unwrap()), ..knock() },
            "knock names a different address than it came from",
            Some(ReplyStatus::AddressRefused),
        ),
        (
            "an unknown action",
            Knock { action: action("reboot"), ..knock() },
            "no action named 'reboot'",
            Some(ReplyStatus::UnknownAction),
        ),
        (
            "another client's action",
            open_web,
            "client cannot use action 'open-web'",
            Some(ReplyStatus::NotAllowed),
        ),
        (
            "a policy that is not allowed",
            Knock { policy: AddressPolicy::Listed, ..knock() },
            "client cannot use source 'listed'",
            Some(ReplyStatus::NotAllowed),
        ),
        (
            "an unexpected argument",
            Knock { argument: "tcp/22".parse().unwrap(), ..knock() },
            "this action takes no argument",
            Some(ReplyStatus::ArgumentRefused),
        ),
        ("a missing argument", lamp(""), "this action needs an argument", Some(ReplyStatus::ArgumentRefused)),
        (
            "an option as the argument",
            lamp("-rf"),
            "argument: only A-Z a-z 0-9 ._:@%+=,- (no .., no leading @ or -)",
            Some(ReplyStatus::ArgumentRefused),
        ),
        (
            "a command as the argument",
            lamp("$(reboot)"),
            "argument: only A-Z a-z 0-9 ._:@%+=,- (no .., no leading @ or -)",
            Some(ReplyStatus::ArgumentRefused),
        ),
    ];
    for (what, knock, reason, status) in cases {
        let refusal = Server::new().refusal(&knock, SOURCE);
        assert_eq!(refusal.rejection.to_string(), reason, "{what}");
        assert_eq!(refusal.rejection.status(), status, "{what}");
        assert_eq!(refusal.reply.is_some(), status.is_some(), "{what}");
        assert!(refusal.record.is_some(), "{what}");
    }
    for knock in [ago(30), ahead(30)] {
        let mut server = Server::new();
        let datagram = server.seal(&knock);
        assert_eq!(server.outcome(&datagram, SOURCE), "act", "at the window's edge");
    }
}

#[test]
fn a_knock_refused_for_its_address_is_not_consumed_but_one_refused_by_policy_is() {
    let mut server = Server::new();
    let datagram = server.seal(&knock());
    assert_eq!(
        server.outcome(&datagram, "198.51.100.1:4000"),
        "knock names a different address than it came from"
    );
    assert_eq!(
        server.outcome(&datagram, SOURCE),
        "act",
        "not consumed by an attacker who copied it and was faster"
    );

    let refused = server.seal(&Knock { action: action("open-web"), ..knock() });
    assert_eq!(server.outcome(&refused, SOURCE), "client cannot use action 'open-web'");
    server
        .keeper
        .replace_policy(policy(ClientRules { allow: BTreeSet::from([action("open-web")]), ..rules() }));
    assert_eq!(server.outcome(&refused, SOURCE), NOT_NEW);
}

#[test]
fn a_client_with_a_wrong_clock_is_refused_and_its_next_correct_knock_works() {
    let mut server = Server::new();
    let ahead = server.seal(&Knock { timestamp: server.now.wall.plus(Duration::from_secs(31)), ..knock() });
    assert_eq!(server.outcome(&ahead, SOURCE), "timestamp is 31 s in the future");
    let correct = server.seal(&knock());
    assert_eq!(server.outcome(&correct, SOURCE), "act");
}

#[test]
fn stale_replayed_and_misaddressed_knocks_are_logged_once() {
    let mut server = Server::new();
    let stale = server.seal(&Knock { timestamp: server.now.wall.minus(Duration::from_secs(40)), ..knock() });
    let elsewhere = server.seal(&knock());
    let mut records = 0;
    for datagram in [&stale, &elsewhere] {
        for _ in 0..10 {
            if let Ok(DatagramResult::Refuse(refusal)) = server.receive(datagram, "198.51.100.1:4000") {
                records += usize::from(refusal.record.is_some());
            }
        }
    }
    assert_eq!(records, 2);
}

#[test]
fn a_rate_counts_authorized_knocks_only_and_an_expired_key_is_refused() {
    let mut server = Server::with(ClientRules { rate: Some("2/m".parse().unwrap()), ..rules() });
    let mut outcomes = Vec::new();
    for wanted in ["open-web", "open-web", "open-ssh", "open-ssh", "open-ssh"] {
        let datagram = server.seal(&Knock { action: action(wanted), ..knock() });
        outcomes.push(server.outcome(&datagram, SOURCE));
    }
    assert_eq!(
        outcomes,
        [
            "client cannot use action 'open-web'",
            "client cannot use action 'open-web'",
            "act",
            "act",
            "too many knocks: wait and try again"
        ]
    );
    server.advance(Duration::from_secs(60));
    let datagram = server.seal(&Knock { timestamp: server.now.wall, ..knock() });
    assert_eq!(server.outcome(&datagram, SOURCE), "act");

    for (expires, outcome) in [(NOW, "key has expired"), (NOW + 1, "act")] {
        let mut server =
            Server::with(ClientRules { expires: Some(Timestamp::from_millis(expires)), ..rules() });
        let datagram = server.seal(&knock());
        assert_eq!(server.outcome(&datagram, SOURCE), outcome);
    }
}

/// The grants of a knock for this action, each with its source and target.
fn opened(server: &mut Server, knock: &Knock) -> Vec<String> {
    let grants = server.grants(knock);
    grants.iter().map(|grant| format!("{} {}", grant.access().from, grant.access().target)).collect()
}

#[test]
fn each_kind_of_action_opens_its_configured_ports() {
    let mut server = Server::new();
    for (name, argument, expected) in [
        ("open-ssh", "", &["203.0.113.9 tcp/22"][..]),
        ("open-many", "", &["203.0.113.9 tcp/22", "203.0.113.9 udp/53", "203.0.113.9 tcp/8000-8999"]),
        ("open-once", "", &["203.0.113.9 tcp/22 once"]),
        ("open-port", "tcp/8443", &["203.0.113.9 tcp/8443"]),
        ("open-port", "tcp/8000-8010", &["203.0.113.9 tcp/8000-8010"]),
        ("open-port", "udp/53", &["203.0.113.9 udp/53"]),
        ("to-db", "", &["203.0.113.9 tcp/15432 to 10.0.0.5:5432"]),
    ] {
        let knock = Knock { action: action(name), argument: argument.parse().unwrap(), ..knock() };
        assert_eq!(opened(&mut server, &knock), expected, "{name} {argument}");
    }
    let both = Knock { action: action("open-and-run"), ..knock() };
    assert!(matches!(server.authorize(&both).effects(), [Effect::Open(_), Effect::Run { .. }]));
    // Two parts that open ports are one effect: the firewall opens all of them or none.
    let twice = Knock { action: action("open-twice"), ..knock() };
    assert_eq!(opened(&mut server, &twice), ["203.0.113.9 tcp/22", "203.0.113.9 udp/53"]);
    let close = Knock { action: action("close-ssh"), ..knock() };
    assert!(
        matches!(server.authorize(&close).effects(), [Effect::Close(closed)] if *closed == action("open-ssh"))
    );
}

#[test]
fn an_argument_that_names_other_ports_or_none_is_refused() {
    let mut server = Server::new();
    for argument in ["", "tcp/22", "tcp/7999-8000", "udp/8443", "8443", "tcp/8443,tcp/8444", "tcp/8999-8000"]
    {
        let knock = Knock { action: action("open-port"), argument: argument.parse().unwrap(), ..knock() };
        let refusal = server.refusal(&knock, SOURCE);
        assert!(matches!(refusal.rejection, Rejection::Argument(_)), "{argument}: {}", refusal.rejection);
    }
}

#[test]
fn a_clients_prefix_admits_its_network_but_not_for_a_single_connection() {
    let lengths = PrefixLengths::SINGLE.with("/24").and_then(|lengths| lengths.with("/64")).unwrap();
    let mut server = Server::with(ClientRules { grant_prefix: lengths, ..rules() });
    assert_eq!(opened(&mut server, &knock()), ["203.0.113.0/24 tcp/22"]);
    let once = Knock { action: action("open-once"), ..knock() };
    assert_eq!(opened(&mut server, &once), ["203.0.113.9 tcp/22 once"]);
    let forward = Knock { action: action("to-db"), ..knock() };
    assert_eq!(opened(&mut server, &forward), ["203.0.113.9 tcp/15432 to 10.0.0.5:5432"]);
    // Forwarding to another port of the host also opens that port.
    let here = Knock { action: action("to-web"), ..knock() };
    assert_eq!(opened(&mut server, &here), ["203.0.113.9 tcp/80 to port 8080", "203.0.113.9 tcp/8080"]);
}

#[test]
fn an_unusable_address_is_not_granted_access() {
    let listed = ClientRules { sources: [AddressPolicy::Listed].into(), ..rules() };
    let mut server = Server::with(listed);
    for address in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "ff02::1"] {
        let (mut ipv4, mut ipv6) = (None, None);
        match address.parse().unwrap() {
            IpAddr::V4(v4) => ipv4 = Some(v4),
            IpAddr::V6(v6) => ipv6 = Some(v6),
        }
        let knock = Knock { policy: AddressPolicy::Listed, ipv4, ipv6, ..knock() };
        let refusal = server.refusal(&knock, SOURCE);
        let expected = [Rejection::UnusableAddress, Rejection::NoAddressListed];
        assert!(expected.contains(&refusal.rejection), "{address}: {}", refusal.rejection);
        assert_eq!(refusal.rejection.status(), Some(ReplyStatus::AddressRefused));
    }
    let six = Knock {
        policy: AddressPolicy::Listed,
        ipv4: None,
        ipv6: Some("2001:db8::7".parse().unwrap()),
        action: action("to-db"),
        ..knock()
    };
    assert_eq!(server.refusal(&six, SOURCE).rejection, Rejection::NoForwardTarget);
    let commands = Knock {
        policy: AddressPolicy::Listed,
        ipv4: Some([127, 0, 0, 1].into()),
        action: action("stamp"),
        ..knock()
    };
    assert_eq!(server.commands(&commands).len(), 1, "a command grants nothing by itself");
}

#[test]
fn an_undo_command_runs_after_the_requested_time_up_to_the_maximum() {
    let mut server = Server::new();
    for (requested, granted) in [(0, 60), (5, 5), (120, 120), (4_000, 120)] {
        let knock =
            Knock { seconds: requested, argument: "x".parse().unwrap(), action: action("lend"), ..knock() };
        let undo = ["/bin/fetch", "x", "203.0.113.9"].map(str::to_owned).to_vec();
        assert_eq!(server.undo(&knock), Some((vec![undo], granted)));
        let run = ["/bin/lend".to_owned(), "laptop".to_owned(), granted.to_string()];
        assert_eq!(server.commands(&knock), [run]);
    }
    let refused = server.refusal(&Knock { action: action("lend"), ..knock() }, SOURCE);
    assert_eq!(refused.rejection.to_string(), "this action needs an argument", "the undo command needs it");
}

#[test]
fn the_requested_seconds_are_granted_up_to_the_actions_maximum() {
    for (requested, granted) in [(0, 30), (1, 1), (600, 600), (601, 600), (u32::MAX, 600)] {
        let grants = Server::new().grants(&Knock { seconds: requested, ..knock() });
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].duration(), Duration::from_secs(granted), "{requested}");
        assert_eq!(format!("{}", grants[0].access().target), "tcp/22");
        assert_eq!((grants[0].client().as_str(), grants[0].action().as_str()), ("laptop", "open-ssh"));
    }
}

#[test]
fn listed_addresses_are_granted_regardless_of_the_source() {
    let listed = |ipv4: Option<&str>, ipv6: Option<&str>| Knock {
        policy: AddressPolicy::Listed,
        ipv4: ipv4.map(|ip| ip.parse().unwrap()),
        ipv6: ipv6.map(|ip| ip.parse().unwrap()),
        ..knock()
    };
    let mut server =
        Server::with(ClientRules { sources: BTreeSet::from([AddressPolicy::Listed]), ..rules() });
    let grants = server.grants(&listed(Some("198.51.100.1"), Some("2001:db8::1")));
    let addresses: Vec<IpAddr> = grants.iter().map(|grant| grant.access().from.first()).collect();
    assert_eq!(addresses, ["198.51.100.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    let refusal = server.refusal(&listed(None, None), SOURCE);
    assert_eq!(refusal.rejection, Rejection::NoAddressListed);
}

#[test]
fn the_placeholders_of_a_command_are_replaced_argument_by_argument() {
    let lamp = Knock { action: action("lamp"), argument: "on:50%".parse().unwrap(), ..knock() };
    assert_eq!(Server::new().commands(&lamp), [["/bin/lamp", "on:50%", "203.0.113.9", "laptop:4000"]]);
    let stamp = Knock { action: action("stamp"), ..knock() };
    assert_eq!(Server::new().commands(&stamp), [["/bin/stamp", "/tmp/x"]]);
}

#[test]
fn an_ipv4_mapped_address_in_a_knock_is_refused() {
    // The capture converts mapped source addresses to IPv4; the content of a knock must not contain one.
    let mut server = Server::new();
    let mapped = Knock { ipv6: Some("::ffff:203.0.113.9".parse().unwrap()), ..knock() };
    assert_eq!(server.refusal(&mapped, SOURCE).rejection, Rejection::UnsupportedFormat);
}

#[test]
fn a_knock_for_another_server_or_of_another_client_has_an_unknown_hint() {
    let mut server = Server::new();
    let secret = || PairSecret::new(Secret::from_bytes(&[7; 32]));
    let other_server = secret().keys(&"other".parse().unwrap());
    for keys in [other_server, keys(8)] {
        let datagram = Datagram::seal_with(&knock(), &keys.client(), [1; 12], 0).unwrap();
        assert_eq!(server.outcome(datagram.as_bytes(), SOURCE), "UnknownHint");
    }
}

#[test]
fn a_removed_client_is_refused_and_its_old_knocks_stay_refused_after_it_is_added_again() {
    let mut server = Server::new();
    let datagram = server.seal(&knock());
    assert_eq!(server.outcome(&datagram, SOURCE), "act");
    let unused = server.seal(&knock());
    server.keeper.replace_policy(Policy { clients: Vec::new(), ..policy(rules()) });
    assert_eq!(server.outcome(&unused, SOURCE), "key is no longer in use");
    server.keeper.replace_policy(policy(rules()));
    server.advance(Duration::from_secs(11));
    assert_eq!(server.outcome(&datagram, SOURCE), NOT_NEW);
}

#[test]
fn a_forgery_by_a_compromised_watcher_opens_nothing() {
    let mut server = Server::new();
    // It can sign, but not encrypt.
    let mut forged = server.seal(&knock());
    forged[30] ^= 1;
    let knock = Authentic::from_watcher(server.keys.fingerprint, &forged).unwrap();
    let judgment = server.keeper.judge(&knock, SOURCE.parse().unwrap(), server.now);
    assert!(matches!(
        judgment,
        Judgment::Refuse(Refusal { rejection: Rejection::DecryptionFailed, reply: None, .. })
    ));
    let unknown = Authentic::from_watcher(Fingerprint::from_bytes([0; 8]), &forged).unwrap();
    let judgment = server.keeper.judge(&unknown, SOURCE.parse().unwrap(), server.now);
    assert!(matches!(judgment, Judgment::Refuse(Refusal { rejection: Rejection::UnknownKey, .. })));
}

#[test]
fn every_flipped_bit_and_every_other_length_is_dropped_by_the_watcher() {
    let mut server = Server::new();
    let datagram = server.seal(&knock());
    for bit in 0..datagram.len() * 8 {
        let mut flipped = datagram.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(server.watcher.judge(&flipped, server.now).is_err(), "bit {bit}");
    }
    for length in (0..datagram.len()).chain(datagram.len() + 1..400) {
        let mut other = datagram.clone();
        other.resize(length, 0);
        assert!(server.watcher.judge(&other, server.now).is_err(), "length {length}");
    }
    assert_eq!(server.outcome(&datagram, SOURCE), "act", "none of it consumed the knock");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]
    #[test]
    fn random_bytes_are_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..DATAGRAM_MAX + 8)) {
        // Creating the keys for each case would take most of the time.
        thread_local! {
            static WATCHER: std::cell::RefCell<Option<Watcher>> = const { std::cell::RefCell::new(None) };
        }
        WATCHER.with_borrow_mut(|watcher| {
            let watcher = watcher.get_or_insert_with(|| {
                let keys = keys(7);
                Watcher::new(WINDOW, [WatchedKey::of(&keys, KeyLimit::UNLIMITED)])
            });
            let verdict = watcher.judge(&bytes, Now { wall: Timestamp::from_millis(NOW), steady: Steady::from_duration(Duration::ZERO) }).map(|_| ());
            let length = (DATAGRAM_MIN..=DATAGRAM_MAX).contains(&bytes.len());
            prop_assert_eq!(verdict, Err(if length { Dropped::UnknownHint } else { Dropped::Length }));
            Ok(())
        })?;
    }
}

proptest! {
    /// For any order, resends and clock jumps: no knock acts twice.
    #[test]
    fn no_knock_ever_acts_twice(
        schedule in proptest::collection::vec((0_usize..12, 0_u8..4, -120_000_i64..120_000), 1..200),
    ) {
        let mut server = Server::new();
        let mut sealed: Vec<Vec<u8>> = Vec::new();
        let mut acted = vec![0; 12];
        for _ in 0..12 {
            let stamped = Knock { timestamp: server.now.wall, ..knock() };
            sealed.push(server.seal(&stamped));
        }
        for (which, source, step) in schedule {
            let wall = server.now.wall.as_millis().saturating_add_signed(step);
            server.now.wall = Timestamp::from_millis(wall);
            server.now.steady = server.now.steady.plus(Duration::from_millis(step.unsigned_abs()));
            let source = format!("203.0.113.9:{}", 4_000 + u16::from(source));
            if server.outcome(&sealed[which].clone(), &source) == "act" {
                acted[which] += 1;
            }
        }
        prop_assert!(acted.iter().all(|&times| times <= 1), "{acted:?}");
    }
}

/// A server whose client must send one-time passwords, and their seed.
fn with_otp(rules: ClientRules) -> (Server, OtpSeed) {
    let seed = OtpSeed::generate(OtpHash::Sha1, OtpDigits::Eight).unwrap();
    let mut server = Server::with(rules.clone());
    server.keeper = with_otp_of(&seed, rules);
    (server, seed)
}

/// A keeper that has just been started, whose client must send the one-time passwords of this seed.
fn with_otp_of(seed: &OtpSeed, rules: ClientRules) -> Keeper {
    let mut policy = policy(rules);
    policy.clients.iter_mut().for_each(|client| client.otp = Some(seed.clone()));
    Keeper::new(policy, ReplayMemory::new(Timestamp::from_millis(NOW - 3_600_000)))
}

/// The outcome of a knock with the code of the time step `off` from now, or without a code for `None`.
fn with_code(server: &mut Server, seed: &OtpSeed, off: Option<i64>) -> String {
    let otp = off.map(|off| seed.code(OtpStep::of(server.now.wall).plus(off)));
    let datagram = server.seal(&Knock { otp, ..knock_at(server.now.wall) });
    server.outcome(&datagram, SOURCE)
}

fn knock_at(timestamp: Timestamp) -> Knock {
    Knock { timestamp, ..knock() }
}

#[test]
fn each_one_time_password_works_once_and_no_earlier_one_works_afterwards() {
    let (mut server, seed) = with_otp(rules());
    let step = Duration::from_secs(30);
    let used = "one-time password already used: wait for the next one";
    for (off, outcome) in [
        (None, "one-time password required"),
        (Some(-1), "act"),
        (Some(-1), used),
        (Some(0), "act"),
        (Some(-1), used),
        (Some(1), "act"),
        (Some(0), used),
        (Some(1), used),
        (Some(2), "one-time password is wrong; it is the code for 60 s from now: check the clocks"),
        (Some(-2), "one-time password is from 60 s ago: check the clocks"),
    ] {
        assert_eq!(with_code(&mut server, &seed, off), outcome, "{off:?}");
    }
    server.advance(step);
    assert_eq!(with_code(&mut server, &seed, Some(0)), used, "accepted before its time step");
    server.advance(step);
    assert_eq!(with_code(&mut server, &seed, Some(0)), "act");
}

#[test]
fn a_refused_one_time_password_has_status_5_and_a_key_without_uses_status_6() {
    let (mut server, _) = with_otp(rules());
    let refusal = server.refusal(&knock(), SOURCE);
    assert_eq!(refusal.rejection.status(), Some(ReplyStatus::OtpRefused));
    assert_eq!(Rejection::UsesExhausted.status(), Some(ReplyStatus::Exhausted));
}

#[test]
fn a_reply_goes_to_a_single_host_only() {
    let mut server = Server::new();
    for source in
        ["224.0.0.1:4000", "239.1.1.1:4000", "255.255.255.255:4000", "0.0.0.0:4000", "[ff02::1]:4000"]
    {
        let refusal = server.refusal(&knock(), source);
        assert!(refusal.reply.is_none(), "{source}");
        assert!(refusal.record.is_some(), "{source}");
    }
    assert!(server.refusal(&Knock { action: "no-such".parse().unwrap(), ..knock() }, SOURCE).reply.is_some());
}

#[test]
fn a_client_never_learns_that_its_one_time_password_will_be_valid_later() {
    let (mut server, seed) = with_otp(rules());
    let now = OtpStep::of(server.now.wall);
    let wrong = (1..).find(|code| (-30..=30).all(|off| seed.code(now.plus(off)) != *code));
    let reply_to = |server: &mut Server, otp| {
        let refusal = server.refusal(&Knock { otp, ..knock() }, SOURCE);
        let reason = refusal.rejection.reason().as_str();
        (refusal.rejection.status(), refusal.rejection.reply_text(), reason)
    };
    let expected = reply_to(&mut server, wrong);
    for off in [2, 3, 20] {
        server.advance(Duration::from_secs(3_600));
        let later = seed.code(OtpStep::of(server.now.wall).plus(off));
        let datagram = Knock { otp: Some(later), ..knock_at(server.now.wall) };
        let refusal = server.refusal(&datagram, SOURCE);
        assert!(
            refusal
                .record
                .is_some_and(|record| record.reason.is_some_and(|why| why.detail.contains("from now")))
        );
        let reply = (refusal.rejection.status(), refusal.rejection.reply_text());
        assert_eq!((reply.0, reply.1, refusal.rejection.reason().as_str()), expected, "{off}");
    }
}

#[test]
fn each_pause_is_twice_as_long_until_a_code_is_correct_even_after_a_restart() {
    let (mut server, seed) = with_otp(rules());
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    for length in [10, 20, 40, 80, 160, 320, 640, 1_280, 1_440, 1_440] {
        for _ in 0..5 {
            with_code(&mut server, &seed, Some(500));
        }
        let paused = format!("too many wrong one-time passwords: wait {} s", length * 60);
        assert_eq!(with_code(&mut server, &seed, Some(0)), paused);
        // A restart changes nothing, whatever the clock shows then.
        let pauses = server.keeper.otp_pauses(server.now);
        server.now.wall = Timestamp::from_millis(server.now.wall.as_millis() - 86_400_000);
        server.keeper = with_otp_of(&seed, rules()).with_otp_pauses(&pauses, server.now);
        server.now.wall = server.now.wall.plus(minutes(1_440));
        server.keeper = with_otp_of(&seed, rules()).with_otp_pauses(&pauses, server.now);
        assert_eq!(with_code(&mut server, &seed, Some(0)), paused);
        server.advance(minutes(length));
    }
    assert_eq!(with_code(&mut server, &seed, Some(0)), "act");
    assert!(server.keeper.otp_pauses(server.now).is_empty(), "a correct code ends the pauses");
}

#[test]
fn five_wrong_one_time_passwords_in_a_row_pause_all_codes_for_ten_minutes() {
    let (mut server, seed) = with_otp(rules());
    let wrong = |server: &mut Server| {
        // A code that no time step near now generates.
        let now = OtpStep::of(server.now.wall);
        let otp = (1..).find(|code| (-30..=30).all(|off| seed.code(now.plus(off)) != *code));
        let datagram = server.seal(&Knock { otp, ..knock_at(server.now.wall) });
        server.outcome(&datagram, SOURCE)
    };
    for _ in 0..4 {
        assert_eq!(wrong(&mut server), "one-time password is wrong");
    }
    assert_eq!(with_code(&mut server, &seed, Some(0)), "act", "the count starts again at 0");
    server.advance(Duration::from_secs(30));
    for _ in 0..5 {
        assert_eq!(with_code(&mut server, &seed, None), "one-time password required");
        assert_eq!(wrong(&mut server), "one-time password is wrong");
    }
    for _ in 0..3 {
        let outcome = with_code(&mut server, &seed, Some(0));
        assert_eq!(outcome, "too many wrong one-time passwords: wait 600 s");
    }
    server.advance(Duration::from_secs(599));
    assert_eq!(with_code(&mut server, &seed, Some(0)), "too many wrong one-time passwords: wait 1 s");
    server.advance(Duration::from_secs(1));
    assert_eq!(with_code(&mut server, &seed, Some(0)), "act");
}

#[test]
fn a_code_of_a_shared_seed_works_only_for_the_first_of_two_clients() {
    let seed = OtpSeed::generate(OtpHash::Sha256, OtpDigits::Six).unwrap();
    let mut policy = policy(rules());
    let other_keys = keys(8);
    policy.clients.push(ClientKey {
        name: "phone".parse().unwrap(),
        fingerprint: other_keys.fingerprint,
        keys: other_keys.keeper(),
        signer: None,
        age: KeyAge::Current,
        otp: None,
        rules: rules(),
    });
    policy.clients.iter_mut().for_each(|client| client.otp = Some(seed.clone()));
    let mut server = Server::new();
    let both = [keys(7), keys(8)];
    server.watcher.replace_clients(WINDOW, both.iter().map(|keys| WatchedKey::of(keys, KeyLimit::UNLIMITED)));
    server.keeper.replace_policy(policy);
    let otp = Some(seed.code(OtpStep::of(server.now.wall)));
    let first = server.seal(&Knock { otp, ..knock() });
    assert_eq!(server.outcome(&first, SOURCE), "act");
    server.keys = keys(8);
    let second = server.seal(&Knock { otp, ..knock() });
    assert_eq!(server.outcome(&second, SOURCE), "one-time password already used: wait for the next one");
}

#[test]
fn a_client_acts_up_to_its_maximum_number_of_uses_and_refused_knocks_do_not_count() {
    let mut server = Server::with(ClientRules { uses: Some(2), ..rules() });
    let outcome = |server: &mut Server, name: &str| {
        let datagram = server.seal(&Knock { action: action(name), ..knock() });
        server.outcome(&datagram, SOURCE)
    };
    assert_eq!(outcome(&mut server, "open-web"), "client cannot use action 'open-web'");
    assert_eq!(outcome(&mut server, "open-ssh"), "act");
    assert_eq!(outcome(&mut server, "open-ssh"), "act");
    for _ in 0..2 {
        assert_eq!(outcome(&mut server, "open-ssh"), "key has no uses left");
    }
    assert_eq!(server.keeper.uses().of(&"laptop".parse().unwrap()), 2);
    // Removed and added again, it counts as another client.
    server.keeper.replace_policy(Policy { clients: Vec::new(), ..policy(rules()) });
    server.keeper.replace_policy(policy(ClientRules { uses: Some(2), ..rules() }));
    server.advance(Duration::from_secs(1));
    let datagram = server.seal(&knock_at(server.now.wall));
    assert_eq!(server.outcome(&datagram, SOURCE), "act");
}
