//! `[fleet]` with a store: several servers that accept each knock once, together, through etcd.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{FleetOutline, FleetStore};
use crate::config::document::{TomlTable, TomlValue};
use crate::config::{Problem, ServerConfig};
use crate::console::own_command;
use spa_knock_fleet::client::Endpoint;
use spa_knock_fleet::{FleetName, MemberName};

/// The default of `revoked-within`.
const REVOKED_WITHIN: Duration = Duration::from_secs(600);
/// Below this, the restart of a store stops granting; above, a revoked client could knock for too long.
const REVOKED_WITHIN_RANGE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(86_400);
/// The largest number of endpoints: a store has three or five members.
const ENDPOINTS_MAX: usize = 16;

/// The settings of a fleet with etcd.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantScope {
    /// On all members: the connection can arrive at any of them.
    All,
    /// Only on the member that has received the knock.
    Here,
}

/// What to do with knocks while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenLost {
    /// Refuse all.
    Refuse,
    /// Grant those that open ports for the signed address alone: a copy opens nothing else.
    Exact,
}

/// Reads the rest of `[fleet]` with `store = "etcd"`.
pub(super) fn read_etcd(mut table: TomlTable<'_>, _: &TomlValue<'_>) -> Option<FleetOutline> {
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

fn read_cluster(value: &TomlValue<'_>) -> Option<u64> {
    let text = value.text()?;
    let id = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    if id.is_none() {
        value
            .problem("not 16 hex digits", Some("`spa-knockd fleet accept-store` writes the id of the store"));
    }
    id
}

/// What the store knows nothing of.
pub(super) fn misuses_with_store(config: &ServerConfig) -> Vec<Problem> {
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
