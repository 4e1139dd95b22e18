//! `[fleet]`: several servers that share one id and the same keys. Through a store, they accept each knock once, together.
//! Without one, each of them accepts a copy of a knock, so the config must allow only what a copy cannot misuse.

use std::path::Path;
#[cfg(feature = "fleet")]
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::document::{TomlTable, TomlValue};
use super::{ClientEntry, Problem, ServerConfig};
#[cfg(feature = "fleet")]
use crate::console::own_command;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{ActionName, AddressPolicy, ClientName};
#[cfg(feature = "fleet")]
use spa_knock_fleet::{FleetName, MemberName, client::Endpoint};

/// Where the files of a fleet are, next to the config and in the state directory.
#[cfg(feature = "fleet")]
const FOLDER: &str = "fleet";
/// The default of `revoked-within`.
#[cfg(feature = "fleet")]
const REVOKED_WITHIN: Duration = Duration::from_secs(600);
/// Below this, the restart of a store stops granting; above, a revoked client could knock for too long.
#[cfg(feature = "fleet")]
const REVOKED_WITHIN_RANGE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(86_400);
/// The largest number of endpoints: a store has three or five members.
#[cfg(feature = "fleet")]
const ENDPOINTS_MAX: usize = 16;

/// What the members of a fleet share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetStore {
    /// Nothing but id and keys: a knock is accepted once by each member.
    None,
    /// etcd: a knock is accepted once.
    #[cfg(feature = "fleet")]
    Etcd(Box<EtcdSettings>),
}

/// The settings of a fleet with etcd.
#[cfg(feature = "fleet")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// The name of the fleet.
    pub name: FleetName,
    /// The name of this server in it.
    pub member: MemberName,
    /// The URLs of the store's members.
    pub endpoints: Vec<String>,
    /// The directory with certificates, logins and the fleet key.
    pub files: PathBuf,
    /// The id of the store's cluster, which a restored store does not have.
    pub cluster: Option<u64>,
    /// Where a knock opens ports.
    pub grants: GrantScope,
    /// What to do with knocks while the store does not answer.
    pub when_lost: WhenLost,
    /// After this time without the store, no knock is granted any more: a revocation could be unknown here.
    pub revoked_within: Duration,
}

/// Where a knock opens ports.
#[cfg(feature = "fleet")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantScope {
    /// On all members: the connection can arrive at any of them.
    All,
    /// Only on the member that has received the knock.
    Here,
}

/// What to do with knocks while the store does not answer.
#[cfg(feature = "fleet")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenLost {
    /// Refuse all.
    Refuse,
    /// Grant those that open ports for the signed address alone: a copy opens nothing else.
    Exact,
}

/// Where a member keeps what it knows of its fleet.
#[cfg(feature = "fleet")]
pub(crate) fn fleet_folder(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

/// `[fleet]` as written, without the place of the config.
pub(super) struct FleetOutline(FleetStore);

impl FleetOutline {
    /// Completes it for a config at this path.
    pub(super) fn beside(self, config: &Path) -> FleetStore {
        #[cfg(not(feature = "fleet"))]
        let _ = config;
        match self.0 {
            FleetStore::None => FleetStore::None,
            #[cfg(feature = "fleet")]
            FleetStore::Etcd(mut settings) => {
                settings.files = config.with_file_name(FOLDER);
                FleetStore::Etcd(settings)
            }
        }
    }
}

impl FleetStore {
    /// The settings of the store, if there is one.
    #[cfg(feature = "fleet")]
    #[must_use]
    pub fn etcd(&self) -> Option<&EtcdSettings> {
        match self {
            Self::None => None,
            Self::Etcd(settings) => Some(settings),
        }
    }
}

/// Reads `[fleet]`.
pub(super) fn read_fleet(value: &TomlValue<'_>) -> Option<FleetOutline> {
    let mut table = value.table()?;
    let store = table.require(
        "store",
        "add store = \"etcd\" (the members accept each knock once, together), or \"none\" (servers that share id and keys, but no memory)",
    );
    let store = store
        .and_then(|value| value.choice(&[("none", false), ("etcd", true)]).map(|is_etcd| (value, is_etcd)));
    let fleet = match store {
        Some((_, false)) => Some(FleetStore::None),
        Some((value, true)) => return read_etcd(table, &value),
        None => return None,
    };
    table.finish();
    fleet.map(FleetOutline)
}

#[cfg(not(feature = "fleet"))]
fn read_etcd(_: TomlTable<'_>, store: &TomlValue<'_>) -> Option<FleetOutline> {
    store.problem(
        "this build has no support for etcd",
        Some("install the package, or build with: cargo build --release --features fleet"),
    );
    None
}

#[cfg(feature = "fleet")]
fn read_etcd(mut table: TomlTable<'_>, _: &TomlValue<'_>) -> Option<FleetOutline> {
    let name = table.require("name", "add name = \"NAME\" (the fleet's name in the store)");
    let member = table.require("member", "add member = \"NAME\" (this server's name in the fleet)");
    let endpoints =
        table.require("endpoints", "add endpoints = [\"https://HOST:2379\", …] (the members of the store)");
    let [cluster, grants, when_lost, within] =
        ["cluster", "grants", "when-lost", "revoked-within"].map(|key| table.take(key));
    let scopes = [("all", GrantScope::All), ("here", GrantScope::Here)];
    let choices = [("refuse", WhenLost::Refuse), ("exact", WhenLost::Exact)];
    let name = name.and_then(|value| value.parsed());
    let member = member.and_then(|value| value.parsed());
    let endpoints = endpoints.and_then(|value| read_endpoints(&value));
    let cluster = cluster.and_then(|value| read_cluster(&value));
    let grants = grants.and_then(|value| value.choice(&scopes)).unwrap_or(GrantScope::All);
    let when_lost = when_lost.and_then(|value| value.choice(&choices)).unwrap_or(WhenLost::Refuse);
    let within = within.and_then(|value| value.duration(REVOKED_WITHIN_RANGE));
    table.finish();
    Some(FleetOutline(FleetStore::Etcd(Box::new(EtcdSettings {
        name: name?,
        member: member?,
        endpoints: endpoints?,
        files: PathBuf::new(),
        cluster,
        grants,
        when_lost,
        revoked_within: within.unwrap_or(REVOKED_WITHIN),
    }))))
}

#[cfg(feature = "fleet")]
fn read_endpoints(value: &TomlValue<'_>) -> Option<Vec<String>> {
    let items = value.list()?;
    if items.is_empty() || items.len() > ENDPOINTS_MAX {
        value.problem(format_args!("needs 1 to {ENDPOINTS_MAX} endpoints"), None);
        return None;
    }
    let mut endpoints = Vec::new();
    for item in items {
        let url = item.text()?;
        if let Err(error) = Endpoint::host_and_port(url) {
            let text = error.to_string();
            let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
            item.problem(message, Some(hint).filter(|hint| !hint.is_empty()));
            return None;
        }
        endpoints.push(url.to_owned());
    }
    Some(endpoints)
}

#[cfg(feature = "fleet")]
fn read_cluster(value: &TomlValue<'_>) -> Option<u64> {
    let text = value.text()?;
    let id = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    if id.is_none() {
        value
            .problem("not 16 hex digits", Some("`spa-knockd fleet accept-store` writes the id of the store"));
    }
    id
}

/// What the members of a fleet must not have: without a store, what a copied knock could misuse; with one, what it knows
/// nothing of.
pub(super) fn misuses(config: &ServerConfig) -> Vec<Problem> {
    match config.fleet {
        None => Vec::new(),
        Some(FleetStore::None) => misuses_without_store(config),
        #[cfg(feature = "fleet")]
        Some(FleetStore::Etcd(_)) => misuses_with_store(config),
    }
}

#[cfg(feature = "fleet")]
fn misuses_with_store(config: &ServerConfig) -> Vec<Problem> {
    let legacy = config.legacy.is_some().then(|| Problem {
        place: config.places.of(&["legacy"]).clone(),
        message: "legacy: each member of a fleet would accept a copy, because these packets are not claimed in the store"
            .to_owned(),
        hint: Some("remove this section".to_owned()),
    });
    // Those of the fleet are added later.
    let counted = config.clients.iter().flat_map(|(name, client)| {
        let keys = [("uses", client.rules.uses.is_some()), ("otp", client.otp.is_some())];
        keys.into_iter().filter(|(_, is_set)| *is_set).map(move |(key, _)| Problem {
            place: config.places.of(&["client", name.as_str(), key]).clone(),
            message: format!(
                "client.{name}.{key}: the store does not count for a client that only this server has"
            ),
            hint: Some(format!(
                "remove it, or add the client with: {}",
                own_command(&format!("client add {name} --fleet"))
            )),
        })
    });
    legacy.into_iter().chain(counted).collect()
}

fn misuses_without_store(config: &ServerConfig) -> Vec<Problem> {
    let sections = [("ports", config.ports.is_some()), ("legacy", config.legacy.is_some())];
    let sections = sections.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| {
        misuse(
            config,
            &[name],
            "the members of a fleet without a store would each accept a copy",
            "remove this section",
        )
    });
    let clients = config.clients.iter().flat_map(|(name, client)| of_client(config, name, client));
    let actions = config
        .actions
        .iter()
        .flat_map(|(name, action)| action.parts.iter().filter_map(|part| of_part(config, name, part)));
    sections.chain(actions).chain(clients).collect()
}

fn of_client(config: &ServerConfig, name: &ClientName, client: &ClientEntry) -> Vec<Problem> {
    let rules = &client.rules;
    let only_exact = rules.sources.iter().all(|policy| *policy == AddressPolicy::Exact);
    let keys = [
        ("source", !only_exact, "a copy of a knock could open another address", "set source = [\"exact\"]"),
        ("uses", rules.uses.is_some(), "each member counts on its own", "remove it, or use a store"),
        ("otp", client.otp.is_some(), "each member accepts a code once", "remove it, or use a store"),
    ];
    let misused = keys.into_iter().filter(|(_, is_misused, ..)| *is_misused);
    misused.map(|(key, _, why, hint)| misuse(config, &["client", name.as_str(), key], why, hint)).collect()
}

fn of_part(config: &ServerConfig, name: &ActionName, part: &ActionPart) -> Option<Problem> {
    let (key, why) = match part {
        ActionPart::Run { .. } => ("run", "each member would run the command for a copy of the knock"),
        part if part.opens_once() => ("once", "each member would admit a connection"),
        ActionPart::Open { .. }
        | ActionPart::OpenArgument { .. }
        | ActionPart::Forward { .. }
        | ActionPart::Close(_) => return None,
    };
    Some(misuse(config, &["action", name.as_str(), key], why, "remove it, or use a store"))
}

fn misuse(config: &ServerConfig, path: &[&str], why: &str, hint: &str) -> Problem {
    Problem {
        place: config.places.of(path).clone(),
        message: format!("{}: {why} (fleet.store is \"none\")", path.join(".")),
        hint: Some(hint.to_owned()),
    }
}
