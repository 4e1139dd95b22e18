//! What an input describes: the policy, the clients, and what happens.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use spa_knock_core::auth::{
    ClientKey, ClientRules, KeyAge, KeyLimit, Policy, Rate, SshSigner, Touch, WatchedKey,
};
use spa_knock_core::crypto::{OtpSeed, OtpStep};
use spa_knock_core::knock::{AddressPolicy, ClientName, Knock, PrefixLengths, ReplyWanted, Timestamp};

use super::actions::{self, ACTIONS};
use super::keys;
use crate::site::NOW;

pub(super) const CLIENTS: usize = 3;
const NAMES: [&str; CLIENTS] = ["laptop", "phone", "backup"];
const POLICIES: [AddressPolicy; 3] = [AddressPolicy::Observed, AddressPolicy::Exact, AddressPolicy::Listed];
/// The last ones are addresses of no other host; a link-local one needs its interface.
const SOURCES: [&str; 8] = [
    "203.0.113.9:4000",
    "203.0.113.9:4001",
    "203.0.113.10:4000",
    "[2001:db8::9]:4000",
    "[fe80::1%2]:4000",
    "[fe80::1]:4000",
    "192.0.2.1:4000",
    "127.0.0.1:4000",
];
const IPV4: [&str; 7] =
    ["0.0.0.0", "203.0.113.9", "203.0.113.10", "192.0.2.1", "127.0.0.1", "255.255.255.255", "224.0.0.1"];
const IPV6: [&str; 5] = ["::", "2001:db8::9", "fe80::1", "ff02::1", "::1"];
const OWN: &str = "192.0.2.1";
const ARGUMENTS: [&str; 16] = [
    "",
    "tcp/8000",
    "tcp/8000-8999",
    "tcp/8990-9000",
    "udp/53",
    "udp/8000",
    "tcp/0",
    "web-1",
    "web-",
    "web-a/b",
    "web-..",
    "/srv/www",
    "on:50%",
    "@file",
    "a b",
    "-x",
];
/// Codes of two seeds, which clients can share.
const SEEDS: [&str; 2] = [
    "spa-knock-otp: 1\nseed: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n",
    "spa-knock-otp: 1\nhash: sha256\ndigits: 8\nseed: MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U\n",
];

/// A client with one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sender {
    pub(super) client: usize,
    pub(super) is_previous: bool,
}

/// What the administrator has configured.
pub(super) struct Scene {
    pub(super) window: Duration,
    pub(super) reply: bool,
    pub(super) clients: Vec<SceneClient>,
    /// A bit for each key that is configured.
    pub(super) present: u8,
    memory_since: u64,
}

/// One client.
pub(super) struct SceneClient {
    /// A bit for each action.
    pub(super) allow: u16,
    /// A bit for each address policy.
    pub(super) sources: u8,
    pub(super) prefixes: (u8, u8),
    /// Acts, and the seconds in which they count.
    pub(super) rate: Option<(u16, u64)>,
    pub(super) expires: Option<Timestamp>,
    pub(super) uses: Option<u64>,
    pub(super) seed: Option<OtpSeed>,
    pub(super) grants: u32,
    /// Whether it has a public key, and so knocks with version 2.
    pub(super) is_signed: bool,
}

/// What happens next.
pub(super) enum SceneStep {
    /// A client knocks.
    Knock { sender: Sender, nonce: u8, draft: KnockDraft, source: SocketAddr, signer: Signer },
    /// One of the datagrams arrives again.
    Copy { which: u8, source: SocketAddr },
    /// Time passes, in milliseconds, on both clocks.
    Pass { wall: i64, steady: u64 },
    /// The daemon is started again.
    Restart,
    /// The config is reloaded, with these keys.
    Reload(u8),
}

/// Who signs a knock of version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    Client,
    /// Someone with the pair secret.
    Thief,
}

/// A knock without its timestamp.
pub(super) struct KnockDraft {
    skew: i64,
    reply: bool,
    seconds: u32,
    /// The time step of the one-time password, relative to the current one; none for a wrong code.
    code: Option<Option<i64>>,
    policy: AddressPolicy,
    ipv4: &'static str,
    ipv6: &'static str,
    action: &'static str,
    argument: &'static str,
}

impl Scene {
    pub(super) fn draw(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            window: Duration::from_secs(*u.choose(&[30, 1, 600])?),
            reply: u.ratio(7, 8)?,
            memory_since: *u.choose(&[3_600, 0, 10])?,
            present: u.arbitrary::<u8>()? | 1,
            clients: (0..CLIENTS).map(|_| SceneClient::draw(u)).collect::<Result<_>>()?,
        })
    }

    pub(super) fn memory_since(&self) -> Duration {
        Duration::from_secs(self.memory_since)
    }

    /// Every key, configured or not.
    fn senders() -> impl Iterator<Item = Sender> {
        (0..CLIENTS).flat_map(|client| [false, true].map(|is_previous| Sender { client, is_previous }))
    }

    pub(super) fn others(&self, than: Sender) -> impl Iterator<Item = Sender> {
        Self::senders().filter(move |sender| *sender != than)
    }

    pub(super) fn is_present(&self, sender: Sender) -> bool {
        self.present & 1 << (sender.client * 2 + usize::from(sender.is_previous)) != 0
    }

    /// Whether one of the keys of this client is configured.
    pub(super) fn has_client(&self, client: usize) -> bool {
        [false, true].iter().any(|&is_previous| self.is_present(Sender { client, is_previous }))
    }

    pub(super) fn name(&self, sender: Sender) -> &'static str {
        NAMES[sender.client]
    }

    pub(super) fn own_address() -> std::net::IpAddr {
        OWN.parse().expect("an address")
    }

    pub(super) fn watched_keys(&self) -> Vec<WatchedKey> {
        let present = Self::senders().filter(|sender| self.is_present(*sender));
        present.map(|sender| WatchedKey::of(self.keys(sender), KeyLimit::UNLIMITED)).collect()
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            window: self.window,
            reply: self.reply,
            knock_range: None,
            own_addresses: BTreeSet::from([Self::own_address()]),
            actions: actions::actions(),
            clients: Self::senders()
                .filter(|sender| self.is_present(*sender))
                .map(|sender| self.key(sender))
                .collect(),
        }
    }

    fn key(&self, sender: Sender) -> ClientKey {
        let client = &self.clients[sender.client];
        let keys = self.keys(sender);
        ClientKey {
            name: NAMES[sender.client].parse::<ClientName>().expect("a client name"),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            signer: client.is_signed.then(|| SshSigner {
                public_key: keys::public_key(sender.client),
                touch: Touch::Present,
                limit: KeyLimit::UNLIMITED,
            }),
            age: if sender.is_previous { KeyAge::Previous } else { KeyAge::Current },
            otp: client.seed.clone(),
            rules: client.rules(),
        }
    }
}

impl SceneClient {
    fn draw(u: &mut Unstructured<'_>) -> Result<Self> {
        let optional = |u: &mut Unstructured<'_>| u.ratio(1, 3);
        Ok(Self {
            // Most actions are allowed.
            allow: u.arbitrary::<u16>()? | u.arbitrary::<u16>()?,
            sources: u.int_in_range(1..=7)?,
            prefixes: (u.int_in_range(16..=32)?, u.int_in_range(33..=128)?),
            rate: if optional(u)? { Some(*u.choose(&[(1, 1), (2, 60), (3, 3_600)])?) } else { None },
            expires: if optional(u)? {
                Some(NOW.wall.plus(Duration::from_secs(u.int_in_range(0..=120)?)))
            } else {
                None
            },
            uses: if optional(u)? { Some(u.int_in_range(0..=3)?) } else { None },
            seed: if optional(u)? { Some(OtpSeed::parse(u.choose(&SEEDS)?).expect("a seed")) } else { None },
            grants: u.int_in_range(1..=100)?,
            is_signed: optional(u)?,
        })
    }

    fn rules(&self) -> ClientRules {
        let lengths = PrefixLengths::SINGLE;
        let lengths = lengths.with(&format!("/{}", self.prefixes.0)).expect("a length of IPv4");
        let allowed = ACTIONS.iter().enumerate().filter(|(place, _)| self.allow & 1 << place != 0);
        let sources = POLICIES.iter().enumerate().filter(|(place, _)| self.sources & 1 << place != 0);
        ClientRules {
            allow: allowed.map(|(_, text)| actions::name(text.name)).collect(),
            sources: sources.map(|(_, policy)| *policy).collect(),
            grant_prefix: lengths.with(&format!("/{}", self.prefixes.1)).expect("a length of IPv6"),
            rate: self.rate.map(rate),
            expires: self.expires,
            uses: self.uses,
            key_limit: None,
            grants: self.grants,
        }
    }

    pub(super) fn allows_policy(&self, policy: AddressPolicy) -> bool {
        POLICIES.iter().position(|known| *known == policy).is_some_and(|place| self.sources & 1 << place != 0)
    }
}

fn rate((count, seconds): (u16, u64)) -> Rate {
    let unit = match seconds {
        1 => 's',
        60 => 'm',
        _ => 'h',
    };
    format!("{count}/{unit}").parse().expect("a rate")
}

impl SceneStep {
    pub(super) fn draw(u: &mut Unstructured<'_>, scene: &Scene) -> Result<Self> {
        let source = |u: &mut Unstructured<'_>| -> Result<SocketAddr> {
            Ok(u.choose(&SOURCES)?.parse().expect("an address"))
        };
        Ok(match u.int_in_range(0..=9)? {
            0..=4 => {
                let sender = Sender { client: u.choose_index(CLIENTS)?, is_previous: u.ratio(1, 4)? };
                let (nonce, source) = (u.arbitrary()?, source(u)?);
                let signer = if u.ratio(1, 8)? { Signer::Thief } else { Signer::Client };
                Self::Knock { sender, nonce, draft: KnockDraft::draw(u, scene)?, source, signer }
            }
            5 | 6 => Self::Copy { which: u.arbitrary()?, source: source(u)? },
            7 => {
                let wall =
                    *u.choose(&[0, 1_000, 9_999, 10_000, 29_999, 60_000, 600_000, -30_000, -86_400_000])?;
                Self::Pass {
                    wall,
                    steady: *u.choose(&[0, 1_000, 9_999, 10_000, 59_999, 60_000, 600_000, 3_600_000])?,
                }
            }
            8 => Self::Restart,
            _ => Self::Reload(u.arbitrary()?),
        })
    }
}

impl KnockDraft {
    fn draw(u: &mut Unstructured<'_>, scene: &Scene) -> Result<Self> {
        let window = i64::try_from(scene.window.as_millis()).expect("short");
        let place = u.int_in_range(0..=ACTIONS.len())?;
        Ok(Self {
            skew: *u.choose(&[0, 1, -1, window, -window, window + 1, -window - 1, window / 2])?,
            reply: u.ratio(7, 8)?,
            seconds: *u.choose(&[0, 1, 45, 600, 601, u32::MAX])?,
            code: *u.choose(&[
                Some(Some(0)),
                Some(Some(1)),
                Some(Some(-1)),
                Some(Some(2)),
                Some(Some(-21)),
                Some(None),
                None,
            ])?,
            policy: *u.choose(&POLICIES)?,
            ipv4: u.choose(&IPV4)?,
            ipv6: u.choose(&IPV6)?,
            action: ACTIONS.get(place).map_or("unknown", |text| text.name),
            argument: u.choose(&ARGUMENTS)?,
        })
    }

    /// The knock that the client makes now.
    pub(super) fn knock(&self, scene: &Scene, sender: Sender, now: Timestamp) -> Knock {
        let code = |offset: Option<i64>| match (offset, &scene.clients[sender.client].seed) {
            (Some(offset), Some(seed)) => seed.code(OtpStep::of(now).plus(offset)),
            _ => 99_999_999,
        };
        Knock {
            timestamp: Timestamp::from_millis(now.as_millis().saturating_add_signed(self.skew)),
            reply: if self.reply { ReplyWanted::Yes } else { ReplyWanted::No },
            seconds: self.seconds,
            otp: self.code.map(code),
            policy: self.policy,
            ipv4: self.ipv4.parse().ok().filter(|address: &std::net::Ipv4Addr| !address.is_unspecified()),
            ipv6: self.ipv6.parse().ok().filter(|address: &std::net::Ipv6Addr| !address.is_unspecified()),
            action: actions::name(self.action),
            argument: self.argument.parse().expect("an argument"),
        }
    }
}
