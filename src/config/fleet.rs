//! `[fleet]`: several servers that share one id and the same keys. Without a store, each of them accepts a copy of a knock, so
//! the config must allow only what a copy cannot misuse.

use super::document::TomlValue;
use super::{ClientEntry, Problem, ServerConfig};
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{ActionName, AddressPolicy, ClientName};

/// What the members of a fleet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetStore {
    /// Nothing but id and keys: a knock is accepted once by each member.
    None,
}

/// Reads `[fleet]`.
pub(super) fn read_fleet(value: &TomlValue<'_>) -> Option<FleetStore> {
    let mut table = value.table()?;
    let store =
        table.require("store", "add store = \"none\" (servers that share id and keys, but no memory)");
    table.finish();
    store?.choice(&[("none", FleetStore::None)])
}

/// What a copied knock could misuse at another member of a fleet without a store.
pub(super) fn misuses(config: &ServerConfig) -> Vec<Problem> {
    let Some(FleetStore::None) = config.fleet else { return Vec::new() };
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
