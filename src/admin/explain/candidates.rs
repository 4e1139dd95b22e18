//! Whose knock a datagram could be that the daemon took for nobody's: every key is tried at all times of years, keys
//! that have been replaced too, and under other names of this server. The trying is done by watchers: what they say was
//! signed was signed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::client_keys::load_secret;
use crate::config::{ConfigErrors, ServerConfig};
use crate::os::{clock, host};
use spa_knock_core::auth::{Authentic, Dropped, KeyLimit, WatchedKey, Watcher};
use spa_knock_core::crypto::{Fingerprint, KeySet, PairSecret};
use spa_knock_core::knock::{ClientName, Now, ServerId, Steady, Timestamp};

/// Hints that are made for the widest look, some 50 MiB and a third of a second: one client is looked for over two
/// years, a hundred over a week.
const HINTS_MAX: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// A clock without a battery begins in 1970. This is the middle of the time within which it is set.
const AFTER_1970: Duration = Duration::from_secs(15 * 86_400);
/// How long hints are made for wide looks in all: a file with packets of scattered times would take a third of a second
/// or more for each.
const WIDE_LOOKS_MAX: Duration = Duration::from_secs(5);
/// Names of this server that are tried; a capture can have packets to any address.
const IDS_MAX: usize = 16;

/// All keys that there are and were.
pub(super) struct Candidates {
    secrets: Vec<(ClientName, PairSecret)>,
    keys: BTreeMap<Fingerprint, Suspect>,
    /// At all times around a day.
    wide: Watcher,
    reach: Duration,
    moment: Timestamp,
    /// How long wide looks may still take.
    time_left: Duration,
    /// At the times of a clock that has not been set.
    unset: Watcher,
    unset_at: Timestamp,
    own_id: ServerId,
    /// Under other names of this server, which are known already.
    elsewhere: Vec<Watcher>,
    tried: BTreeSet<ServerId>,
}

/// A key, as far as it is known from the config.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    /// Whose it is.
    pub(super) client: ClientName,
    /// Why it might not count.
    pub(super) state: KeyState,
}

/// Why a key might not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyState {
    /// It does.
    InUse,
    /// It was replaced, and was good until then.
    Replaced(Timestamp),
    /// It is for a server of this id.
    For(ServerId),
}

/// What a look at a datagram led to.
pub(super) enum Lookup<'a> {
    /// Somebody signed it, at some time.
    Signed(Authentic<'a>, Clock),
    /// Its hint was made with a key, but its signature was not.
    Hinted,
    /// It is nobody's that is known here.
    Nobodys,
    /// It was not compared with keys at other times.
    NotCompared,
}

/// What the clock said by which a knock was stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Some time.
    Set,
    /// A time shortly after that at which clocks begin.
    Unset,
}

impl Candidates {
    /// All keys that a config names, and the names under which this server could be known.
    ///
    /// # Errors
    /// Every key in use that cannot be read.
    pub(super) fn of(config: &ServerConfig, ids: &[ServerId]) -> Result<Self, ConfigErrors> {
        let mut secrets = Vec::new();
        let mut keys = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, entry) in &config.clients {
            let mut note = |secret: PairSecret, state| {
                let suspect = Suspect { client: name.clone(), state };
                keys.entry(secret.keys(&config.id).fingerprint).or_insert(suspect);
                secrets.push((name.clone(), secret));
            };
            match load_secret(config, name, &entry.key) {
                Ok(secret) => note(secret, KeyState::InUse),
                Err(problem) => problems.push(problem),
            }
            // One that is over may have been removed.
            if let Some(previous) = &entry.previous
                && let Ok(secret) = load_secret(config, name, &previous.key)
            {
                note(secret, KeyState::Replaced(previous.until));
            }
        }
        if !problems.is_empty() {
            return Err(ConfigErrors::of(problems));
        }
        let count = u64::try_from(secrets.len().max(1)).unwrap_or(u64::MAX);
        let minutes = HINTS_MAX.checked_div(count.saturating_mul(2)).unwrap_or_default();
        let reach = Duration::from_secs(minutes.saturating_mul(60));
        let own = || secrets.iter().map(|(_, secret)| secret.keys(&config.id));
        let watcher = |reach| Watcher::new(reach, own().map(|keys| watched(&keys)));
        let half = AFTER_1970.min(part(reach, 4));
        let mut suspects = Self {
            wide: watcher(reach),
            reach,
            moment: Timestamp::default(),
            time_left: WIDE_LOOKS_MAX,
            unset: watcher(half),
            unset_at: Timestamp::default().plus(half),
            secrets,
            keys,
            own_id: config.id.clone(),
            elsewhere: Vec::new(),
            tried: BTreeSet::from([config.id.clone()]),
        };
        let name = host::name().unwrap_or_default();
        let short = name.split('.').next().unwrap_or_default();
        let own_names = [name.as_str(), short, "localhost"].map(|name| ServerId::from_typed(name).ok());
        ids.iter().cloned().chain(own_names.into_iter().flatten()).for_each(|id| suspects.try_id(id));
        Ok(suspects)
    }

    /// What is known of a key.
    pub(super) fn suspect(&self, key: Fingerprint) -> Option<&Suspect> {
        self.keys.get(&key)
    }

    /// How far from a packet's own time its maker's clock is looked for.
    pub(super) const fn reach(&self) -> Duration {
        self.reach
    }

    /// The names of this server that were tried besides its own.
    pub(super) fn tried(&self) -> impl Iterator<Item = &ServerId> {
        self.tried.iter().filter(|id| **id != self.own_id)
    }

    /// Lets a daemon's own time go on: what comes in live is never further apart.
    pub(super) const fn unbounded(&mut self) {
        self.time_left = Duration::MAX;
    }

    /// Whose it could be, of a datagram that was sent to this address.
    pub(super) fn look<'a>(&mut self, payload: &'a [u8], to: IpAddr, time: Timestamp) -> Lookup<'a> {
        // From the same moment for a while: hints for all times around it are made once, and old ones go.
        if time.distance(self.moment) > DAY.min(part(self.reach, 4)) {
            if self.time_left.is_zero() {
                return Lookup::NotCompared;
            }
            let begun = clock::steady();
            self.moment = time;
            self.wide.prepare(time);
            self.elsewhere.iter_mut().for_each(|watcher| watcher.prepare(time));
            self.time_left = self.time_left.saturating_sub(clock::steady().since(begun));
        }
        let by_wide = self.wide.judge(payload, at(self.moment));
        if let Ok(knock) = by_wide {
            return Lookup::Signed(knock, Clock::Set);
        }
        if let Ok(knock) = self.unset.judge(payload, at(self.unset_at)) {
            return Lookup::Signed(knock, Clock::Unset);
        }
        // Who has only a pair key can be asked to use it for any id, most easily for the address that was typed.
        if let Ok(id) = ServerId::from_typed(&to.to_string())
            && self.tried.len() < IDS_MAX
        {
            self.try_id(id);
        }
        for watcher in &mut self.elsewhere {
            if let Ok(knock) = watcher.judge(payload, at(time)) {
                return Lookup::Signed(knock, Clock::Set);
            }
        }
        if by_wide.is_err_and(|dropped| dropped == Dropped::Forged) {
            Lookup::Hinted
        } else {
            Lookup::Nobodys
        }
    }

    /// The client that the hint of a forged datagram names at this time.
    pub(super) fn hinted(&self, payload: &[u8], time: Timestamp, window: Duration) -> Option<ClientName> {
        self.client_whose(window, |watcher| watcher.judge(payload, at(time)).err() == Some(Dropped::Forged))
    }

    /// The client that signed a datagram.
    pub(super) fn signer(&self, payload: &[u8], time: Timestamp, window: Duration) -> Option<ClientName> {
        self.client_whose(window, |watcher| watcher.judge(payload, at(time)).is_ok())
    }

    /// The first client for which `is_it` holds of a watcher that knows no other.
    fn client_whose(&self, window: Duration, is_it: impl Fn(&mut Watcher) -> bool) -> Option<ClientName> {
        let mut clients = self.secrets.iter();
        clients
            .find(|(_, secret)| is_it(&mut Watcher::new(window, [watched(&secret.keys(&self.own_id))])))
            .map(|(name, _)| name.clone())
    }

    fn try_id(&mut self, id: ServerId) {
        if !self.tried.insert(id.clone()) {
            return;
        }
        let mut signers = Vec::new();
        for (client, secret) in &self.secrets {
            let keys = secret.keys(&id);
            let suspect = Suspect { client: client.clone(), state: KeyState::For(id.clone()) };
            self.keys.insert(keys.fingerprint, suspect);
            signers.push(watched(&keys));
        }
        self.elsewhere.push(Watcher::new(DAY.min(part(self.reach, 8)), signers));
    }
}

fn part(span: Duration, of: u32) -> Duration {
    span.checked_div(of).unwrap_or_default()
}

/// A key whose packets are all looked at.
fn watched(keys: &KeySet) -> WatchedKey {
    WatchedKey::of(keys, KeyLimit::UNLIMITED)
}

/// A time of the trace; the steady clock does not move, as nothing is limited that would need it.
const fn at(wall: Timestamp) -> Now {
    Now { wall, steady: Steady::MAX }
}
