//! One server with its key, policies and clock, for knocks and their checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use spa_knock_core::auth::{
    Action, ActionPart, Arguments, ClientKey, ClientRules, Keeper, KeyAge, KeyLimit, Policy, ReplayMemory,
    Term, Uses, WatchedKey, Watcher,
};
use spa_knock_core::crypto::{ClientKeys, KeySet, PairSecret, Secret};
use spa_knock_core::knock::{ActionName, AddressPolicy, Now, PrefixLengths, Steady, Timestamp};

/// The time at which every input starts.
pub const NOW: Now =
    Now { wall: Timestamp::from_millis(START), steady: Steady::from_duration(Duration::from_secs(1_000)) };
/// The sources of knocks.
pub const SOURCES: [&str; 4] =
    ["203.0.113.9:4000", "203.0.113.9:4001", "203.0.113.10:4000", "[2001:db8::9]:4000"];

const START: u64 = 1_795_331_877_123;
/// All actions except open-web.
const WIDE: [&str; 7] = ["open-ssh", "once", "ports", "inside", "shut", "lamp", "touch"];
const HOUR: Duration = Duration::from_secs(3_600);

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let server = "bastion".parse().expect("a server id");
    PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&server)
});
static CLIENT: LazyLock<ClientKeys> = LazyLock::new(|| KEYS.client());

/// What the administrator allows: one of a few policies, between which a reload switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Everything except *listed*.
    Wide,
    /// No clients.
    Empty,
    /// Only *listed*, for a minute from the start, with the widest window.
    Listed,
    /// Few actions, five times a minute, and no replies.
    Narrow,
}

impl Rules {
    /// The rules with this number; every number selects one of them.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number % 4 {
            0 => Self::Wide,
            1 => Self::Empty,
            2 => Self::Listed,
            _ => Self::Narrow,
        }
    }

    /// The policy of these rules, for a new keeper.
    #[must_use]
    pub fn policy(self) -> Policy {
        Policy {
            window: self.window(),
            reply: self != Self::Narrow,
            knock_range: None,
            own_addresses: BTreeSet::from([[192, 0, 2, 1].into()]),
            actions: actions(),
            clients: self.client().into_iter().collect(),
        }
    }

    /// A watcher with these rules.
    #[must_use]
    pub fn watcher(self) -> Watcher {
        Watcher::new(self.window(), self.signers())
    }

    /// The same policy, for lookups.
    #[must_use]
    pub fn known(self) -> &'static Policy {
        static ALL: LazyLock<[Policy; 4]> =
            LazyLock::new(|| [0, 1, 2, 3].map(|number| Rules::of(number).policy()));
        let [wide, empty, listed, narrow] = &*ALL;
        match self {
            Self::Wide => wide,
            Self::Empty => empty,
            Self::Listed => listed,
            Self::Narrow => narrow,
        }
    }

    /// Applies the rules to a watcher, as a reload does.
    pub fn apply_to(self, watcher: &mut Watcher) {
        watcher.replace_clients(self.window(), self.signers());
    }

    fn window(self) -> Duration {
        Duration::from_secs(if self == Self::Listed { 600 } else { 30 })
    }

    fn signers(self) -> Option<WatchedKey> {
        (self != Self::Empty).then(|| WatchedKey::of(&KEYS, KeyLimit::UNLIMITED))
    }

    fn client(self) -> Option<ClientKey> {
        let (allow, sources): (&[&str], &[AddressPolicy]) = match self {
            Self::Empty => return None,
            Self::Wide => (&WIDE, &[AddressPolicy::Exact, AddressPolicy::Observed]),
            Self::Listed => (&WIDE, &[AddressPolicy::Listed]),
            Self::Narrow => (&["lamp", "open-ssh"], &[AddressPolicy::Exact, AddressPolicy::Listed]),
        };
        let wider = |length| PrefixLengths::SINGLE.with(length).expect("a length");
        let rules = ClientRules {
            allow: allow.iter().map(|name| action(name)).collect(),
            sources: BTreeSet::from_iter(sources.iter().copied()),
            grant_prefix: if self == Self::Narrow { wider("/24") } else { wider("/64") },
            rate: (self == Self::Narrow).then(|| "5/m".parse().expect("a rate")),
            expires: (self == Self::Listed).then(|| NOW.wall.plus(Duration::from_secs(60))),
            uses: None,
            key_limit: None,
            grants: 64,
        };
        let name = "laptop".parse().expect("a client name");
        Some(ClientKey {
            name,
            fingerprint: KEYS.fingerprint,
            keys: KEYS.keeper(),
            signer: None,
            age: KeyAge::Current,
            otp: None,
            rules,
        })
    }
}

/// The keys of the only client and this server.
#[must_use]
pub fn keys() -> &'static KeySet {
    &KEYS
}

/// The client's keys.
#[must_use]
pub fn client() -> &'static ClientKeys {
    &CLIENT
}

/// The replay memory of a keeper at the start.
#[must_use]
pub fn memory() -> ReplayMemory {
    ReplayMemory::new(NOW.wall.minus(HOUR))
}

/// A keeper at the start.
#[must_use]
pub fn keeper() -> Keeper {
    Keeper::new(Rules::Wide.policy(), memory())
}

fn actions() -> BTreeMap<ActionName, Action> {
    let all = |ports: &[&str]| ports.iter().map(|port| port.parse().expect("ports")).collect();
    let open = |ports: &[&str], uses| ActionPart::Open { ports: all(ports), uses };
    let argv =
        |arguments: &[&str]| arguments.iter().map(|argument| argument.parse().expect("a template")).collect();
    let run = |arguments: &[&str], undo: Option<&[&str]>| ActionPart::Run {
        argv: argv(arguments),
        timeout: Duration::from_secs(10),
        undo: undo.map(argv),
        arguments: Arguments::default(),
    };
    let named = ActionPart::OpenArgument { allowed: all(&["tcp/8000-8999", "udp/53"]), uses: Uses::Many };
    let inside = ActionPart::Forward {
        port: "tcp/15432".parse().expect("a port"),
        to: vec!["10.0.0.5:5432".parse().expect("an address")],
    };
    let lamp = run(
        &["/bin/lamp", "{argument}", "{address}", "{client}:{port}"],
        Some(&["/bin/lamp", "off", "{argument}"]),
    );
    let stamp = run(&["/bin/touch", "/tmp/{action}-{seconds}"], None);
    let term = Some(Term { usual: Duration::from_secs(30), max: Duration::from_secs(600) });
    [
        ("open-ssh", vec![open(&["tcp/22", "udp/60001-60010"], Uses::Many)], term),
        ("open-web", vec![open(&["tcp/443"], Uses::Many)], term),
        ("once", vec![open(&["tcp/443"], Uses::One), stamp.clone()], term),
        ("ports", vec![named], term),
        ("inside", vec![inside], term),
        ("shut", vec![ActionPart::Close(action("open-ssh"))], None),
        ("lamp", vec![lamp], term),
        ("touch", vec![stamp], None),
    ]
    .map(|(name, parts, term)| (action(name), Action { parts, term }))
    .into()
}

fn action(name: &str) -> ActionName {
    name.parse().expect("an action name")
}
