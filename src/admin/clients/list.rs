//! `spa-knockd client list` and `client show`: everything about clients except their secrets.

use std::path::Path;

use serde::Serialize;

use super::fleet_clients::{self, awaits_first_start, is_of_fleet};
use super::ssh_keys::{shown, signing_text};
use super::{day_or_time, find, joined, rotate};
use crate::config::client_keys::{load_clients, load_keys};
use crate::config::{self, ClientEntry, ServerConfig};
use crate::console::{AdminError, notice, print, print_lines, table};
use crate::os::{clock, terminal};
use crate::state;
use spa_knock_core::knock::ClientName;

/// A client in JSON.
#[derive(Serialize)]
struct ClientLine {
    name: String,
    /// Only for a client of the fleet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fleet: bool,
    server: String,
    allow: Vec<String>,
    source: Vec<String>,
    /// `None` is unlimited.
    rate: Option<String>,
    /// RFC 3339; `None` is never.
    expires: Option<String>,
    /// The maximum number of uses; `None` is unlimited.
    uses: Option<u64>,
    /// The number of uses so far, if limited and known.
    used: Option<u64>,
    otp: bool,
    key: String,
    /// `None` if the key cannot be read.
    fingerprint: Option<String>,
    /// The fingerprint of the SSH key that must sign its knocks; `None` for a client without one.
    ssh_key: Option<String>,
    /// The kind of this key, as `ssh-keygen -l` prints it.
    ssh_kind: Option<&'static str>,
    /// What a FIDO device must state; `None` for other keys.
    touch: Option<&'static str>,
    defined: String,
    /// The expiry of its previous key, if it has one.
    previous_until: Option<String>,
}

/// Prints all clients.
///
/// # Errors
/// When the config is invalid or a key cannot be used; in the latter case, prints the list first.
pub(crate) fn list(path: &Path, json: bool) -> Result<(), AdminError> {
    let config = config::load(path)?;
    if json {
        let lines: Vec<ClientLine> =
            config.clients.iter().map(|(name, entry)| line(&config, name, entry)).collect();
        print(&format!("{}\n", serde_json::to_string(&lines).map_err(AdminError::run)?))?;
    } else {
        print_table(&config)?;
    }
    if awaits_first_start(&config) {
        notice("clients of the fleet appear when the daemon has started");
    }
    load_clients(&config)?;
    Ok(())
}

/// Prints a row for each client. The column of the SSH keys is left out if no client has one.
fn print_table(config: &ServerConfig) -> Result<(), AdminError> {
    let mut rows = vec![["NAME", "ALLOW", "EXPIRES", "FINGERPRINT", "SSH KEY"].map(str::to_owned)];
    for (name, entry) in &config.clients {
        let fingerprint = fingerprint(config, name, entry).unwrap_or_else(|| "-".to_owned());
        let ssh_key =
            entry.signing.as_ref().map_or_else(|| "-".to_owned(), |signing| shown(&signing.public_key));
        let name = if is_of_fleet(config, entry) { format!("{name} (fleet)") } else { name.to_string() };
        rows.push([name, joined(&entry.rules.allow), expires_text(entry), fingerprint, ssh_key]);
    }
    if config.clients.values().any(|entry| entry.signing.is_some()) {
        return print(&table(&rows, terminal::width()));
    }
    let rows: Vec<_> =
        rows.into_iter().map(|[name, allow, expires, key, _]| [name, allow, expires, key]).collect();
    print(&table(&rows, terminal::width()))
}

/// Prints everything about a client except its secret.
///
/// # Errors
/// When the config or the key is invalid, or there is no such client.
pub(crate) fn show(path: &Path, name: &ClientName, json: bool) -> Result<(), AdminError> {
    let config = config::load(path)?;
    let entry = find(&config, name)?;
    if json {
        let line = line(&config, name, entry);
        print(&format!("{}\n", serde_json::to_string(&line).map_err(AdminError::run)?))?;
    } else {
        print_lines(&text(&config, name, entry))?;
    }
    load_keys(&config, name, &entry.key).map(drop).map_err(AdminError::key)
}

fn text(config: &ServerConfig, name: &ClientName, entry: &ClientEntry) -> String {
    let rate = entry.rules.rate.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string());
    let mut lines = vec![
        ("name", name.to_string()),
        ("server", config.id.to_string()),
        ("allow", joined(&entry.rules.allow)),
        ("source", joined(&entry.rules.sources)),
        ("rate", rate),
        ("expires", expires_text(entry)),
        ("uses", uses_text(config, name, entry)),
        ("one-time passwords", otp_text(entry)),
        ("key", entry.key.display().to_string()),
        ("fingerprint", fingerprint(config, name, entry).unwrap_or_else(|| "-".to_owned())),
        ("defined", config.places.of(&["client", name.as_str()]).to_string()),
    ];
    if is_of_fleet(config, entry) {
        lines.push(("fleet", "a client of the fleet, on all members".to_owned()));
    }
    if let Some(signing) = &entry.signing {
        lines.push(("ssh key", signing_text(signing)));
    }
    if let Some(previous) = &entry.previous {
        lines.push(("previous key", rotate::previous_text(config, name, previous)));
    }
    lines.iter().map(|(label, value)| format!("{label}: {value}\n")).collect()
}

fn line(config: &ServerConfig, name: &ClientName, entry: &ClientEntry) -> ClientLine {
    let key = entry.signing.as_ref().map(|signing| &signing.public_key);
    let fido = entry.signing.as_ref().filter(|signing| signing.public_key.kind().is_fido());
    // Of a client of the fleet, only the store knows them.
    let counts = entry.rules.uses.filter(|_| !is_of_fleet(config, entry));
    let used = counts.and_then(|_| state::uses(&config.state_dir).ok());
    ClientLine {
        name: name.to_string(),
        fleet: is_of_fleet(config, entry),
        server: config.id.to_string(),
        allow: entry.rules.allow.iter().map(ToString::to_string).collect(),
        source: entry.rules.sources.iter().map(ToString::to_string).collect(),
        rate: entry.rules.rate.map(|rate| rate.to_string()),
        expires: entry.rules.expires.map(clock::rfc3339),
        uses: entry.rules.uses,
        used: used.map(|counts| counts.of(name)),
        otp: entry.otp.is_some(),
        key: entry.key.display().to_string(),
        fingerprint: fingerprint(config, name, entry),
        ssh_key: key.map(|key| key.fingerprint().to_string()),
        ssh_kind: key.map(|key| key.kind().short_name()),
        touch: fido.map(|signing| signing.touch.as_str()),
        defined: config.places.of(&["client", name.as_str()]).to_string(),
        previous_until: entry.previous.as_ref().map(|previous| clock::rfc3339(previous.until)),
    }
}

fn fingerprint(config: &ServerConfig, name: &ClientName, entry: &ClientEntry) -> Option<String> {
    load_keys(config, name, &entry.key).ok().map(|keys| keys.fingerprint.to_string())
}

fn expires_text(entry: &ClientEntry) -> String {
    match entry.rules.expires {
        None => "never".to_owned(),
        Some(time) if time <= clock::wall() => format!("{} (expired)", day_or_time(time)),
        Some(time) => day_or_time(time),
    }
}

fn uses_text(config: &ServerConfig, name: &ClientName, entry: &ClientEntry) -> String {
    let Some(uses) = entry.rules.uses else { return "unlimited".to_owned() };
    if is_of_fleet(config, entry) {
        return fleet_clients::uses_text(config, name, uses);
    }
    match state::uses(&config.state_dir) {
        Ok(counts) => {
            let used = counts.of(name);
            format!("{used} of {uses} used, {} left", uses.saturating_sub(used))
        }
        Err(error) => format!("unknown, of {uses}: {error}"),
    }
}

fn otp_text(entry: &ClientEntry) -> String {
    entry
        .otp
        .as_ref()
        .map_or_else(|| "not required".to_owned(), |file| format!("required, {}", file.display()))
}
