//! One server with its key, policies and clock: what knocks are made for and judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use spa_knock::crypto::{ClientKeys, KeySet, PairSecret, Secret};
use spa_knock::gate::{
    Action, Client, ClientRules, Keeper, KeyAge, Policy, ReplayMemory, Term, Undo, Watcher,
};
use spa_knock::knock::{ActionName, AddressPolicy, Now, Timestamp};

/// When every input begins.
pub const NOW: Now = Now { wall: Timestamp::from_millis(START), steady: Duration::from_secs(1_000) };
/// Where knocks come from.
pub const SOURCES: [&str; 4] =
    ["203.0.113.9:4000", "203.0.113.9:4001", "203.0.113.10:4000", "[2001:db8::9]:4000"];

const START: u64 = 1_795_331_877_123;
const HOUR: Duration = Duration::from_secs(3_600);

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let server = "bastion".parse().expect("a server id");
    PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&server)
});
static CLIENT: LazyLock<ClientKeys> = LazyLock::new(|| KEYS.client());

/// What the admin allows: one of a few policies, as a reload may bring them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Everything but *listed*.
    Wide,
    /// No client at all.
    Nobody,
    /// *listed* alone, for a minute from the start, with the widest window.
    Listed,
    /// One action, five times a minute, and no answers.
    Narrow,
}

impl Rules {
    /// The rules with this number; every number has some.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number % 4 {
            0 => Self::Wide,
            1 => Self::Nobody,
            2 => Self::Listed,
            _ => Self::Narrow,
        }
    }

    /// The policy that says so.
    #[must_use]
    pub fn policy(self) -> Policy {
        Policy {
            window: Duration::from_secs(if self == Self::Listed { 600 } else { 30 }),
            reply: self != Self::Narrow,
            actions: actions(),
            clients: self.client().into_iter().collect(),
        }
    }

    /// The watcher's share of the same.
    #[must_use]
    pub fn watcher(self) -> Watcher {
        let mut watcher = Watcher::new(self.policy().window, []);
        self.instruct(&mut watcher);
        watcher
    }

    /// Tells a watcher, as a reload does.
    pub fn instruct(self, watcher: &mut Watcher) {
        let policy = self.policy();
        let keys = policy.clients.iter().map(|client| (client.fingerprint, KEYS.watcher()));
        watcher.replace_clients(policy.window, keys);
    }

    fn client(self) -> Option<Client> {
        let (allow, sources): (&[&str], &[AddressPolicy]) = match self {
            Self::Nobody => return None,
            Self::Wide => (&["open-ssh", "lamp", "touch"], &[AddressPolicy::Exact, AddressPolicy::Observed]),
            Self::Listed => (&["open-ssh", "lamp", "touch"], &[AddressPolicy::Listed]),
            Self::Narrow => (&["lamp"], &[AddressPolicy::Exact, AddressPolicy::Listed]),
        };
        let rules = ClientRules {
            allow: allow.iter().map(|name| action(name)).collect(),
            sources: BTreeSet::from_iter(sources.iter().copied()),
            rate: (self == Self::Narrow).then(|| "5/m".parse().expect("a rate")),
            expires: (self == Self::Listed).then(|| NOW.wall.plus(Duration::from_secs(60))),
        };
        let name = "laptop".parse().expect("a client name");
        Some(Client { name, fingerprint: KEYS.fingerprint, keys: KEYS.keeper(), age: KeyAge::Current, rules })
    }
}

/// The keys of the one client and this server.
#[must_use]
pub fn keys() -> &'static KeySet {
    &KEYS
}

/// The client's share of them.
#[must_use]
pub fn client() -> &'static ClientKeys {
    &CLIENT
}

/// What a keeper remembers at the start.
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
    let argv = |words: &[&str]| words.iter().map(|word| word.parse().expect("a template")).collect();
    let doors = |doors: &[&str]| doors.iter().map(|door| door.parse().expect("a door")).collect();
    let term = Term { usual: Duration::from_secs(30), max: Duration::from_secs(600) };
    let open = |names| Action::Open { doors: doors(names), term };
    let run = |words, undo: Option<&[&str]>| Action::Run {
        argv: argv(words),
        timeout: Duration::from_secs(10),
        undo: undo.map(|words| Undo { argv: argv(words), term }),
    };
    BTreeMap::from([
        (action("open-ssh"), open(&["tcp/22", "udp/60001"])),
        (action("open-web"), open(&["tcp/443"])),
        (
            action("lamp"),
            run(
                &["/bin/lamp", "{argument}", "{address}", "{client}:{port}"],
                Some(&["/bin/lamp", "off", "{argument}"]),
            ),
        ),
        (action("touch"), run(&["/bin/touch", "/tmp/{action}-{seconds}"], None)),
    ])
}

fn action(name: &str) -> ActionName {
    name.parse().expect("an action name")
}
