//! `spa-knockd client …`: a client consists of its key file in `keys_dir` and its `clients.d/NAME.toml`. The latter
//! makes the client valid, so it is written last and removed first.

mod add;
mod authorized_keys;
mod client_files;
mod definition;
mod enrollment;
mod expiry_time;
#[cfg(feature = "fleet")]
mod fleet_clients;
#[cfg(not(feature = "fleet"))]
#[path = "fleet_clients_absent.rs"]
mod fleet_clients;
mod key_options;
mod key_output;
mod list;
mod present_client;
pub(crate) mod qr;
mod revoke;
pub(crate) mod rotate;
mod set;
mod ssh_keys;

pub(crate) use add::add;
#[cfg(feature = "fleet")]
pub(crate) use client_files::CreatedFiles;
pub(crate) use fleet_clients::awaits_first_start;
#[cfg(feature = "fleet")]
pub(crate) use fleet_clients::{FleetClients, RevocationFailure};
pub(crate) use list::{list, show};
#[cfg(feature = "fleet")]
pub(crate) use revoke::refuse_here;
pub(crate) use revoke::revoke;
pub(crate) use set::set;

use std::path::Path;

use crate::config::{ClientEntry, DateTime, ServerConfig, full_name};
use crate::console::AdminError;
use crate::os::clock;
use spa_knock_core::knock::{ClientName, Timestamp};

/// What to do with a key.
const HAND_OVER: &str = "give it to the client's owner so that no one else can read it, and keep no copy";

/// Checks that a client is defined in a file of its own, which commands may change.
fn check_own_file(
    path: &Path,
    config: &ServerConfig,
    name: &ClientName,
    entry: &ClientEntry,
    change: &str,
) -> Result<(), AdminError> {
    if entry.defined_in != path {
        return Ok(());
    }
    Err(AdminError::run(format_args!(
        "client {name}: defined in the config itself, which this command does not change\n\
         hint: {change} [{}] at {}, then reload the daemon",
        full_name("client", name.as_str()),
        config.places.of(&["client", name.as_str()])
    )))
}

/// The time given by `--expires`.
fn expiry(text: &str) -> Result<Timestamp, AdminError> {
    let now = clock::wall();
    let time = match text.parse::<DateTime>() {
        Ok(DateTime(time)) => time,
        Err(form) => humantime::parse_duration(text).map(|span| now.plus(span)).map_err(|_| {
            AdminError::usage(format_args!(
                "--expires: not a time\nhint: {form}, or as a time from now such as 90d"
            ))
        })?,
    };
    if time <= now {
        return Err(AdminError::usage(format_args!("--expires: {} is in the past", day_or_time(time))));
    }
    Ok(time)
}

/// A time in TOML, to the second; midnight UTC is written as the date alone.
fn day_or_time(time: Timestamp) -> String {
    let text = clock::rfc3339(time);
    let seconds = text.split('.').next().unwrap_or(&text);
    seconds.strip_suffix("T00:00:00").map_or_else(|| format!("{seconds}Z"), str::to_owned)
}

fn find<'a>(config: &'a ServerConfig, name: &ClientName) -> Result<&'a ClientEntry, AdminError> {
    config.clients.get(name).ok_or_else(|| {
        let known = joined(config.clients.keys());
        let hint = if known.is_empty() {
            "no clients are configured".to_owned()
        } else {
            format!("clients: {known}")
        };
        AdminError::run(format_args!("client {name}: no such client\nhint: {hint}"))
    })
}

/// A list in a sentence.
fn joined(items: impl IntoIterator<Item: ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// A list as an option's value.
fn comma(items: impl IntoIterator<Item: ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
