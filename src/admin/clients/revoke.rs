//! `spa-knockd client revoke`: first in the running daemon, then the files. Needs no valid config and no valid keys.

use std::path::{Path, PathBuf};

use super::client_files::{ClientFiles, remove_keys};
use super::fleet_clients::is_of_fleet;
use crate::admin::facts::DaemonFacts;
use crate::admin::notify;
use crate::config::client_keys::fingerprint_of;
use crate::config::revoked_keys::{self, RevokedKeys};
use crate::config::{self, BackendKind, ClientEntry, ConfigErrors, ServerConfig, full_name};
use crate::console::{AdminError, counted, notice, own_command, print_error};
use crate::control::{AskResult, Request, Response};
use crate::firewall::{Iptables, LoadedGates};
use crate::gate::lock::lock_gate;
use crate::os::files;
use crate::state::{self, last_good};
use spa_knock_core::knock::ClientName;

/// How the running daemon handled the request.
enum RevokeReply {
    /// The client, with these names, is dropped; also after restarts if `lasts`.
    Dropped { names: Vec<String>, lasts: bool },
    /// The daemon knows no such client.
    Unknown,
    /// No daemon runs.
    NoDaemon,
    /// A daemon runs, but did not drop the client.
    Failed(String),
}

/// Revokes a client, by name or fingerprint.
///
/// # Errors
/// When there is no such client, or it could not be revoked completely: the message states what was achieved.
pub(crate) fn revoke(path: &Path, facts: &DaemonFacts, wanted: &str) -> Result<(), AdminError> {
    let valid = config::load(path);
    if let Ok(config) = &valid
        && let Some((name, entry)) = find(config, wanted, &RevokeReply::Unknown)
        && is_of_fleet(config, entry)
    {
        return Err(only_here(path, facts, name, wanted));
    }
    let daemon = dropped_by_daemon(facts, wanted);
    let known = match &valid {
        Ok(config) => Some(config.clone()),
        Err(_) => known_without_config(path, facts),
    };
    let found = known.as_ref().and_then(|config| Some((config, find(config, wanted, &daemon)?)));
    let Some((config, (name, entry))) = found else {
        return without_files(path, facts, wanted, daemon, known.as_ref(), valid.err());
    };
    let fingerprints = fingerprints_of(config, entry);
    let removed = remove_files(path, facts, config, name, entry);
    let subject = format!("client {name}");
    let mut problems = Vec::new();
    if matches!(daemon, RevokeReply::NoDaemon) {
        problems.extend(close_in_kernel(facts, name).err().map(|failure| failure.text()));
    }
    match &removed {
        Ok(()) => notice(format_args!("{subject}: revoked")),
        // The client's files still exist, so the list of revoked keys must exclude it.
        Err(failure) => {
            print_error(failure.text());
            let lasts = match &daemon {
                RevokeReply::Dropped { lasts, .. } => *lasts,
                _ => false,
            };
            match if lasts { Ok(()) } else { RevokedKeys::add_to(&facts.state_dir, &fingerprints) } {
                Ok(()) if !fingerprints.is_empty() || lasts => notice(format_args!(
                    "{subject}: refused by its entry in {}, also after a restart",
                    revoked_keys::path(&facts.state_dir).display()
                )),
                Ok(()) => problems.push(format!("{subject}: its key is unreadable and remains configured")),
                Err(error) => {
                    problems.push(format!("{subject}: the next start will accept it again: {error}"))
                }
            }
        }
    }
    match daemon {
        RevokeReply::Dropped { .. } if valid.is_ok() && removed.is_ok() => {
            if let Err(failure) = notify::request_reload(config, &subject) {
                notice(format_args!("warning: {}\n{subject}: revoked anyway", failure.text()));
            }
        }
        RevokeReply::Failed(reason) => {
            problems.push(format!("{subject}: the running daemon still accepts it: {reason}"))
        }
        RevokeReply::NoDaemon => {
            notice(format_args!("{subject}: no daemon is running; this takes effect when the daemon starts"));
        }
        RevokeReply::Dropped { .. } | RevokeReply::Unknown => {}
    }
    if removed.is_ok()
        && let Err(error) = state::forget_uses(&config.state_dir, name)
    {
        notice(format_args!("warning: {error}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(AdminError::run(problems.join("\n"))) }
}

/// Refuses a client of the fleet on this server, which is all that can be done without the store.
fn only_here(path: &Path, facts: &DaemonFacts, name: &ClientName, wanted: &str) -> AdminError {
    let done = match refuse_here(path, facts, wanted) {
        Ok(()) => format!("client {name}: is a client of the fleet; refused on this server only"),
        Err(failure) => failure.text(),
    };
    AdminError::run(format_args!(
        "{done}\nhint: to revoke it on all members: {}; while the store does not answer, repeat this command on each member",
        own_command(&format!("client revoke {wanted} --fleet"))
    ))
}

/// Refuses a client on this server, also after a restart. Its definition remains.
///
/// # Errors
/// If there is no such client, or it may still be accepted.
pub(crate) fn refuse_here(path: &Path, facts: &DaemonFacts, wanted: &str) -> Result<(), AdminError> {
    let failed = |why: &str| Err(AdminError::run(format_args!("client {wanted}: {why}")));
    match dropped_by_daemon(facts, wanted) {
        RevokeReply::Dropped { lasts: true, .. } => Ok(()),
        RevokeReply::Dropped { lasts: false, .. } => failed("the next start of the daemon accepts it again"),
        RevokeReply::Unknown => failed("the running daemon does not know it"),
        RevokeReply::Failed(reason) => failed(&format!("the running daemon still accepts it: {reason}")),
        RevokeReply::NoDaemon => {
            let config = config::load(path)?;
            let Some((name, entry)) = find(&config, wanted, &RevokeReply::Unknown) else {
                return failed("this server does not know it");
            };
            let fingerprints = fingerprints_of(&config, entry);
            if fingerprints.is_empty() {
                return failed("its key is unreadable, so it can't be refused");
            }
            RevokedKeys::add_to(&facts.state_dir, &fingerprints)?;
            close_in_kernel(facts, name)
        }
    }
}

fn fingerprints_of(config: &ServerConfig, entry: &ClientEntry) -> Vec<String> {
    keys_of(entry).filter_map(|key| Some(fingerprint_of(config, entry.version(), key)?.to_string())).collect()
}

fn dropped_by_daemon(facts: &DaemonFacts, wanted: &str) -> RevokeReply {
    match facts.ask(&Request::DropClient { client: wanted.to_owned() }) {
        Ok(AskResult::Reply(Response::Dropped { clients, closed, remarks, .. })) => {
            let lasts = remarks.is_empty();
            remarks.iter().for_each(|remark| notice(format_args!("warning: client {wanted}: {remark}")));
            if clients.is_empty() && closed == 0 {
                return RevokeReply::Unknown;
            }
            for name in &clients {
                notice(format_args!(
                    "client {name}: the running daemon refuses its knocks now; {} revoked; established connections stay open",
                    counted(closed, "grant")
                ));
            }
            RevokeReply::Dropped { names: clients, lasts }
        }
        Ok(AskResult::Reply(Response::Failed { reason })) => RevokeReply::Failed(reason),
        Ok(AskResult::Reply(_)) => RevokeReply::Failed("the daemon sent an unexpected response".to_owned()),
        Err(failure) => RevokeReply::Failed(failure.text()),
        // With backend "none", the gate may belong to another daemon.
        Ok(AskResult::NoDaemon)
            if facts.backend == BackendKind::None && !state::is_locked(&facts.state_dir) =>
        {
            RevokeReply::NoDaemon
        }
        Ok(AskResult::NoDaemon) => facts.silent_daemon().map_or(RevokeReply::NoDaemon, RevokeReply::Failed),
    }
}

/// The known clients while the config has errors: those of its last valid version, and those in readable files of their
/// own.
fn known_without_config(path: &Path, facts: &DaemonFacts) -> Option<ServerConfig> {
    let mut config = facts.plan.as_ref()?.config.clone();
    config.clients.extend(config::load_client_files(path, &config.keys_dir));
    Some(config)
}

/// The client of this name or fingerprint, or the one that the daemon has dropped.
fn find<'c>(
    config: &'c ServerConfig,
    wanted: &str,
    daemon: &RevokeReply,
) -> Option<(&'c ClientName, &'c ClientEntry)> {
    let dropped = match daemon {
        RevokeReply::Dropped { names, .. } => names.as_slice(),
        _ => &[],
    };
    let is_named =
        |name: &ClientName| name.as_str() == wanted || dropped.iter().any(|other| name.as_str() == other);
    let has_key = |entry: &ClientEntry| {
        keys_of(entry)
            .filter_map(|key| fingerprint_of(config, entry.version(), key))
            .any(|fingerprint| fingerprint.to_string() == wanted)
    };
    let named = config.clients.iter().find(|(name, _)| is_named(name));
    named.or_else(|| config.clients.iter().find(|(_, entry)| has_key(entry)))
}

fn keys_of(entry: &ClientEntry) -> impl Iterator<Item = &PathBuf> {
    std::iter::once(&entry.key).chain(entry.previous.iter().map(|previous| &previous.key))
}

/// Removes the files that `client add` created.
fn remove_files(
    path: &Path,
    facts: &DaemonFacts,
    config: &ServerConfig,
    name: &ClientName,
    entry: &ClientEntry,
) -> Result<(), AdminError> {
    if entry.defined_in == path || entry.defined_in == last_good::path(&facts.state_dir) {
        return Err(AdminError::run(format_args!(
            "client {name}: defined in the config itself, which this command does not change\nhint: remove [{}] from {}",
            full_name("client", name.as_str()),
            path.display()
        )));
    }
    files::remove(&entry.defined_in)?;
    remove_keys(config, name, keys_of(entry).chain(entry.otp.as_ref()))
}

/// Handles a client for which no valid definition is known.
fn without_files(
    path: &Path,
    facts: &DaemonFacts,
    wanted: &str,
    daemon: RevokeReply,
    known: Option<&ServerConfig>,
    errors: Option<ConfigErrors>,
) -> Result<(), AdminError> {
    // An unreadable definition file would make the client valid again once the config is repaired.
    let own = wanted.parse::<ClientName>().ok().map(|name| {
        let keys_dir = known.map_or_else(|| config::outline(path).keys_dir, |config| config.keys_dir.clone());
        ClientFiles::of_name(path, &keys_dir, &name)
    });
    let own = own.filter(|own| files::exists(&own.definition));
    if let Some(own) = &own {
        files::remove(&own.definition)?;
        notice(format_args!("client {wanted}: revoked"));
        for file in [&own.key, &own.otp].into_iter().filter(|file| files::exists(file)) {
            notice(format_args!(
                "kept: {} (the config has errors, so other clients may use this file)",
                file.display()
            ));
        }
    }
    match daemon {
        RevokeReply::Failed(reason) => Err(AdminError::run(format_args!(
            "client {wanted}: the running daemon could not be reached: {reason}"
        ))),
        RevokeReply::Dropped { .. } => Ok(()),
        // No daemon revokes its grants.
        _ if own.is_some() => wanted.parse().map_or(Ok(()), |name| close_in_kernel(facts, &name)),
        _ => {
            let names: Vec<_> =
                known.iter().flat_map(|config| config.clients.keys()).map(ToString::to_string).collect();
            let hint = match (names.is_empty(), errors) {
                (_, Some(errors)) => {
                    let first = errors.problems().first().map(ToString::to_string).unwrap_or_default();
                    format!("the config has errors: {first}")
                }
                (true, None) => "no clients are configured".to_owned(),
                (false, None) => format!("clients: {}", names.join(", ")),
            };
            Err(AdminError::run(format_args!("client {wanted}: no such client\nhint: {hint}")))
        }
    }
}

/// Revokes the client's grants in the kernel, without a daemon.
fn close_in_kernel(facts: &DaemonFacts, name: &ClientName) -> Result<(), AdminError> {
    if facts.backend == BackendKind::None {
        return Ok(());
    }
    // Daemons that start, and commands that let an address in, wait for these locks.
    let _state = state::try_lock(&facts.state_dir).ok();
    let _gate = lock_gate("try again")?;
    let mut problems = Vec::new();
    // Also if the kernel has no gate now: the next gate restores the grants in this file.
    if let Err(error) = Iptables::forget(&facts.state_dir, name) {
        problems.push(format!("client {name}: a restored gate opens its grants again: {error}"));
    }
    let mut closed = 0_usize;
    for kind in LoadedGates::find().kinds {
        match kind.close_client(name) {
            Ok(count) => closed = closed.saturating_add(count),
            Err(error) => {
                problems.push(format!("client {name}: grants in the {kind} may still be active: {error}"))
            }
        }
    }
    if closed > 0 {
        notice(format_args!("client {name}: {} revoked", counted(closed, "grant")));
    }
    if problems.is_empty() { Ok(()) } else { Err(AdminError::run(problems.join("\n"))) }
}
