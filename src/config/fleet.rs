//! `[fleet]`: several servers that share one id and the same keys. Through a store, they accept each knock once, together.
//! Without one, each of them accepts a copy of a knock, so the config must allow only what a copy cannot misuse.

#[cfg(feature = "fleet")]
mod etcd;

use std::path::Path;
#[cfg(feature = "fleet")]
use std::path::PathBuf;

#[cfg(feature = "fleet")]
pub use etcd::{EtcdSettings, GrantScope, WhenLost};
#[cfg(feature = "fleet")]
use etcd::{misuses_with_store, read_etcd};

#[cfg(not(feature = "fleet"))]
use super::document::TomlTable;
use super::document::TomlValue;
use super::{ClientEntry, Problem, ServerConfig};
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{ActionName, AddressPolicy, ClientName};

/// Where the files of a fleet are, next to the config and in the state directory.
#[cfg(feature = "fleet")]
const FOLDER: &str = "fleet";

/// What the members of a fleet share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetStore {
    /// Nothing but id and keys: a knock is accepted once by each member.
    None,
    /// etcd: a knock is accepted once.
    #[cfg(feature = "fleet")]
    Etcd(Box<EtcdSettings>),
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
