//! `spa-knockd client …`: a client consists of its key file in `keys_dir` and its `clients.d/NAME.toml`. The latter
//! makes the client valid, so it is written last and removed first.

mod client_files;
mod key_output;
mod list;
pub(crate) mod qr;
mod revoke;
pub(crate) mod rotate;
mod set;

pub(crate) use client_files::{CreatedFiles, remove_keys};
pub(crate) use key_output::{pair_key, readmit, render};
pub(crate) use list::{list, show};
pub(crate) use revoke::revoke;
pub(crate) use set::set;

use std::collections::BTreeSet;
use std::path::Path;

use super::args::AddClient;
use super::notify;
use crate::config::{self, ClientEntry, DateTime, ServerConfig, full_name};
use crate::console::{AdminError, notice, own_command, print};
use crate::gate::console_grants::is_console;
use crate::os::clock;
use crate::os::files::{self, FileMode};
use crate::state;
use client_files::ClientFiles;
use key_output::show_otp;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::crypto::OtpSeed;
use spa_knock_core::knock::{ActionName, ClientName, Timestamp};

/// What to do with a key.
const HAND_OVER: &str = "give it to the client's owner so that no one else can read it, and keep no copy";

/// Adds a client, completely or not at all.
///
/// # Errors
/// When the config or the key is invalid, the name is in use, an action is unknown, or something cannot be written.
pub(crate) fn add(path: &Path, add: &AddClient) -> Result<(), AdminError> {
    let expires = add.expires.as_deref().map(expiry).transpose()?;
    let config = config::load(path)?;
    if add.if_missing
        && let Some(entry) = config.clients.get(&add.name)
    {
        return check_same(entry, add);
    }
    check_new(&config, add)?;
    let files = ClientFiles::of(path, &config, &add.name);
    let otp = add.otp.then(|| OtpSeed::generate(add.otp_hash, add.otp_digits)).transpose();
    let otp = otp.map_err(AdminError::run)?;
    let new_files = [Some(&files.key), Some(&files.definition), otp.as_ref().map(|_| &files.otp)];
    if let Some(file) = new_files.into_iter().flatten().find(|file| files::exists(file)) {
        return Err(AdminError::run(format_args!(
            "client {}: {} remains from an earlier client of this name\nhint: remove the file, or choose another name",
            add.name,
            file.display()
        )));
    }
    let mut key = pair_key(&config, &add.name, add.key.as_deref())?;
    if let Some(address) = &add.address {
        key.address = Some(address.clone());
    }
    let handed_over = render(&key, &add.form)?;
    readmit(&config, &key)?;
    // An earlier client of this name may have been removed by hand.
    state::forget_uses(&config.state_dir, &add.name).map_err(AdminError::run)?;

    let mut created = CreatedFiles::default();
    for folder in [files.key.parent(), files.definition.parent()].into_iter().flatten() {
        files::create_folder(folder, FileMode::Private)?;
    }
    created.file(&files.key, key.to_text().as_bytes())?;
    if let Some(otp) = &otp {
        created.file(&files.otp, otp.to_text().as_bytes())?;
    }
    if let Some(output) = &add.output {
        created.file(output, handed_over.as_bytes())?;
    }
    created.file(&files.definition, definition(add, expires).as_bytes())?;
    let prints_key = add.output.is_none() && add.key.is_none();
    if prints_key {
        print(&handed_over)?;
    }
    if let Some(otp) = &otp {
        show_otp(otp, &config, &add.name, prints_key)?;
    }
    created.persist();
    print_added(&config, add);
    notify::request_reload(&config, &format!("client {}", add.name))
}

/// Checks that a client is defined in a file of its own, which commands may change.
pub(crate) fn check_own_file(
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

/// For `--if-missing`: an existing client stays unchanged, but its allowed actions must be the requested ones.
fn check_same(entry: &ClientEntry, add: &AddClient) -> Result<(), AdminError> {
    let name = &add.name;
    let allow: BTreeSet<_> = add.allow.iter().cloned().collect();
    if entry.rules.allow != allow {
        return Err(AdminError::run(format_args!(
            "client {name}: exists already, allowed actions: {}\nhint: {}",
            joined(&entry.rules.allow),
            own_command(&format!("client set {name} --allow {}", comma(&allow)))
        )));
    }
    notice(format_args!("client {name}: unchanged (exists already)"));
    Ok(())
}

fn check_new(config: &ServerConfig, add: &AddClient) -> Result<(), AdminError> {
    let name = &add.name;
    if is_console(name) || (config.legacy.is_some() && config::is_legacy_client(name)) {
        return Err(AdminError::run(format_args!(
            "client {name}: name is reserved for grants without a client\nhint: choose another name"
        )));
    }
    if config.clients.contains_key(name) {
        return Err(AdminError::run(format_args!(
            "client {name}: exists already, defined in {}\nhint: to replace its key: {}; to add another client, choose another name",
            config.places.of(&["client", name.as_str()]),
            own_command(&format!("client rotate {name}"))
        )));
    }
    if let Some(unknown) = add.allow.iter().find(|action| !config.actions.contains_key(action)) {
        let known = joined(config.actions.keys());
        let hint = if known.is_empty() {
            "define an action in the config".to_owned()
        } else {
            format!("defined actions: {known}")
        };
        return Err(AdminError::run(format_args!("client {name}: no such action: {unknown}\nhint: {hint}")));
    }
    Ok(())
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
pub(crate) fn day_or_time(time: Timestamp) -> String {
    let text = clock::rfc3339(time);
    let seconds = text.split('.').next().unwrap_or(&text);
    seconds.strip_suffix("T00:00:00").map_or_else(|| format!("{seconds}Z"), str::to_owned)
}

fn definition(add: &AddClient, expires: Option<Timestamp>) -> String {
    let allow: BTreeSet<_> = add.allow.iter().collect();
    let quoted: Vec<String> = allow.iter().map(|action| format!("\"{action}\"")).collect();
    let sources: BTreeSet<_> = add.source.iter().collect();
    let sources: Vec<String> = sources.iter().map(|source| format!("\"{source}\"")).collect();
    let table = full_name("client", add.name.as_str());
    let mut text = format!(
        "# Made by `client add`; `{}` removes it.\n\
         [{table}]\nkey = \"{}.key\"\nallow = [{}]\nsource = [{}]\n",
        own_command(&format!("client revoke {}", add.name)),
        add.name,
        quoted.join(", "),
        sources.join(", ")
    );
    let lines = [
        add.rate.0.map(|rate| format!("rate = \"{rate}\"")),
        expires.map(|expires| format!("expires = {}", day_or_time(expires))),
        add.uses.map(|uses| format!("uses = {uses}")),
        add.otp.then(|| format!("otp = \"{}.otp\"", add.name)),
    ];
    for line in lines.into_iter().flatten() {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The action for an example: `open-ssh`, else one that opens a port, else any.
fn example<'a>(config: &ServerConfig, allow: &BTreeSet<&'a ActionName>) -> &'a str {
    let usual = allow.iter().find(|action| action.as_str() == "open-ssh");
    let opens = |name: &&&ActionName| {
        config.actions.get(**name).is_some_and(|action| {
            action.parts.iter().any(|part| !matches!(part, ActionPart::Close(_) | ActionPart::Run { .. }))
        })
    };
    usual.or_else(|| allow.iter().find(opens)).or(allow.first()).map_or("ACTION", |action| action.as_str())
}

fn print_added(config: &ServerConfig, add: &AddClient) {
    let name = &add.name;
    let allow: BTreeSet<_> = add.allow.iter().collect();
    notice(format_args!("client {name}: added, allowed actions: {}", joined(&allow)));
    match &add.output {
        Some(file) => notice(format_args!(
            "its key is in {}: {HAND_OVER}\nto knock: {}spa-knock{} SERVER {}",
            file.display(),
            if add.form.token { "spa-knock import - < FILE, then: " } else { "" },
            if add.form.token { "" } else { " --key FILE" },
            example(config, &allow),
        )),
        None if add.key.is_none() => notice(format_args!("its key is printed above: {HAND_OVER}")),
        None => {}
    }
}

pub(crate) fn find<'a>(config: &'a ServerConfig, name: &ClientName) -> Result<&'a ClientEntry, AdminError> {
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
