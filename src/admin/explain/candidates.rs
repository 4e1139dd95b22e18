//! Finds the client of a datagram whose hint is unknown to the daemon: tries every key, including replaced ones, at all
//! times within years, and under other ids of this server. Watchers do the trying, so a match is a verified signature.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::client_keys::{derived, load_secret};
use crate::config::{ConfigErrors, ServerConfig};
use crate::os::{clock, host};
use spa_knock_core::auth::{Authentic, Dropped, KeyLimit, WatchedKey, Watcher};
use spa_knock_core::crypto::{Fingerprint, KeySet, PairSecret};
use spa_knock_core::knock::{ClientName, Now, ProtocolVersion, ServerId, Steady, Timestamp};

/// The maximum number of hints for a wide search, about 50 MiB and a third of a second: two years for one client, a
/// week for a hundred.
const HINTS_MAX: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// A clock without a battery starts in 1970. This is half of the time after that in which an unset clock is expected.
const AFTER_1970: Duration = Duration::from_secs(15 * 86_400);
/// The total time for computing hints of wide searches: a file with packets of scattered times would need a third of a
/// second or more for each.
const WIDE_SEARCHES_MAX: Duration = Duration::from_secs(5);
/// The maximum number of server ids that are tried; a capture can contain packets to any address.
const IDS_MAX: usize = 16;

/// All current and replaced keys.
pub(super) struct Candidates {
    secrets: Vec<(ClientName, ProtocolVersion, PairSecret)>,
    keys: BTreeMap<Fingerprint, Suspect>,
    /// Searches a wide range of times around `moment`.
    wide: Watcher,
    reach: Duration,
    moment: Timestamp,
    /// The remaining time for wide searches.
    time_left: Duration,
    /// Searches the times of a clock that has not been set.
    unset: Watcher,
    unset_at: Timestamp,
    own_id: ServerId,
    /// Searches under other ids of this server.
    elsewhere: Vec<Watcher>,
    tried: BTreeSet<ServerId>,
}

/// The owner and state of a key, from the config.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    /// The client that owns it.
    pub(super) client: ClientName,
    /// Why it might be invalid.
    pub(super) state: KeyState,
}

/// Why a key might be invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyState {
    /// It is valid.
    InUse,
    /// It was replaced, and was valid until then.
    Replaced(Timestamp),
    /// It is for this server id.
    For(ServerId),
}

/// The result of a search for a datagram's client.
pub(super) enum Lookup<'a> {
    /// A known key signed it, at some time.
    Signed(Authentic<'a>, Clock),
    /// Its hint belongs to a known key, but its tag does not.
    Hinted,
    /// No known key matches.
    Unknown,
    /// It was not compared with keys at other times.
    NotCompared,
}

/// The state of the clock that stamped a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// It was set, correctly or not.
    Set,
    /// It has not been set since it started in 1970.
    Unset,
}

impl Candidates {
    /// Collects all keys that a config names, and the possible ids of this server.
    ///
    /// # Errors
    /// Every current key that cannot be read.
    pub(super) fn of(config: &ServerConfig, ids: &[ServerId]) -> Result<Self, ConfigErrors> {
        let mut secrets = Vec::new();
        let mut keys = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, entry) in &config.clients {
            let mut note = |secret: PairSecret, state| {
                let suspect = Suspect { client: name.clone(), state };
                let version = entry.version();
                keys.entry(secret.fingerprint(version, &config.id)).or_insert(suspect);
                secrets.push((name.clone(), version, secret));
            };
            match load_secret(config, name, &entry.key) {
                Ok(secret) => note(secret, KeyState::InUse),
                Err(problem) => problems.push(problem),
            }
            // An expired key may have been removed.
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
        let own = || secrets.iter().map(|(_, version, secret)| derived(secret, *version, &config.id));
        let watcher = |reach| Watcher::new(reach, own().map(|keys| watched(&keys)));
        let half = AFTER_1970.min(part(reach, 4));
        let mut candidates = Self {
            wide: watcher(reach),
            reach,
            moment: Timestamp::default(),
            time_left: WIDE_SEARCHES_MAX,
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
        ids.iter().cloned().chain(own_names.into_iter().flatten()).for_each(|id| candidates.try_id(id));
        Ok(candidates)
    }

    /// The owner and state of a key.
    pub(super) fn suspect(&self, key: Fingerprint) -> Option<&Suspect> {
        self.keys.get(&key)
    }

    /// The largest clock difference that is searched.
    pub(super) const fn reach(&self) -> Duration {
        self.reach
    }

    /// The ids that were tried in addition to the server's own.
    pub(super) fn tried(&self) -> impl Iterator<Item = &ServerId> {
        self.tried.iter().filter(|id| **id != self.own_id)
    }

    /// Prepares wide searches around this time, so that no packet has to wait for them, and removes their time limit:
    /// packets captured live are never far apart in time.
    pub(super) fn prepare_live(&mut self, now: Timestamp) {
        self.time_left = Duration::MAX;
        self.unset.prepare(self.unset_at);
        self.prepare(now);
    }

    fn prepare(&mut self, moment: Timestamp) {
        self.moment = moment;
        self.wide.prepare(moment);
        self.elsewhere.iter_mut().for_each(|watcher| watcher.prepare(moment));
    }

    /// Finds the key of a datagram that was sent to this address.
    pub(super) fn search<'a>(&mut self, payload: &'a [u8], to: IpAddr, time: Timestamp) -> Lookup<'a> {
        // The moment stays the same for some time, so that the hints around it are computed only once.
        if time.distance(self.moment) > DAY.min(part(self.reach, 4)) {
            if self.time_left.is_zero() {
                return Lookup::NotCompared;
            }
            let begun = clock::steady();
            self.prepare(time);
            self.time_left = self.time_left.saturating_sub(clock::steady().since(begun));
        }
        let by_wide = self.wide.judge(payload, at(self.moment));
        if let Ok(knock) = by_wide {
            return Lookup::Signed(knock, Clock::Set);
        }
        if let Ok(knock) = self.unset.judge(payload, at(self.unset_at)) {
            return Lookup::Signed(knock, Clock::Unset);
        }
        // With a pair key, a client can knock for any server id, most likely the address that its user typed.
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
            Lookup::Unknown
        }
    }

    /// The client that the hint of a forged datagram belongs to at this time.
    pub(super) fn hinted(&self, payload: &[u8], time: Timestamp, window: Duration) -> Option<ClientName> {
        self.client_whose(window, |watcher| watcher.judge(payload, at(time)).err() == Some(Dropped::Forged))
    }

    /// The client that signed a datagram.
    pub(super) fn signer(&self, payload: &[u8], time: Timestamp, window: Duration) -> Option<ClientName> {
        self.client_whose(window, |watcher| watcher.judge(payload, at(time)).is_ok())
    }

    /// The first client for which `matches` returns true, given a watcher that knows only this client.
    fn client_whose(&self, window: Duration, matches: impl Fn(&mut Watcher) -> bool) -> Option<ClientName> {
        let mut clients = self.secrets.iter();
        clients
            .find(|(_, version, secret)| {
                matches(&mut Watcher::new(window, [watched(&derived(secret, *version, &self.own_id))]))
            })
            .map(|(name, ..)| name.clone())
    }

    fn try_id(&mut self, id: ServerId) {
        if !self.tried.insert(id.clone()) {
            return;
        }
        let mut signers = Vec::new();
        for (client, version, secret) in &self.secrets {
            let keys = derived(secret, *version, &id);
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

/// A key without a rate limit.
fn watched(keys: &KeySet) -> WatchedKey {
    WatchedKey::of(keys, KeyLimit::UNLIMITED)
}

/// A time of the capture. The steady clock does not advance, since no limits depend on it.
const fn at(wall: Timestamp) -> Now {
    Now { wall, steady: Steady::MAX }
}
