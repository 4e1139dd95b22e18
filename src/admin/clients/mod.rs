//! `spa-knockd client …`: a client is its key file in `keys_dir` and its `clients.d/NAME.toml`. The latter makes
//! it count, so it comes last and goes first.

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
use crate::console::{AdminError, notice, print};
use crate::gate::console_grants::is_console;
use crate::os::clock;
use crate::os::files::{self, FileMode};
use crate::state;
use client_files::ClientFiles;
use key_output::show_otp;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::crypto::OtpSeed;
use spa_knock_core::knock::{ActionName, ClientName, Timestamp};

/// Adds a client, whole or not at all.
///
/// # Errors
/// When the config or the key is bad, the name is taken, an action unknown, or something cannot be written.
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
    let made = [Some(&files.key), Some(&files.definition), otp.as_ref().map(|_| &files.otp)];
    if let Some(file) = made.into_iter().flatten().find(|file| files::exists(file)) {
        return Err(AdminError::run(format_args!(
            "client {}: {} is left from an earlier one\nhint: remove it, or choose another name",
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
    // An earlier client of this name that was removed by hand.
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
    say_added(&config, add);
    notify::request_reload(&config, &format!("client {}", add.name))
}

/// Whether a client is defined in a file of its own, which commands may change.
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
        "client {name}: defined in the config itself, which commands do not change\n\
         hint: {change} [{}] at {}, then reload the daemon",
        full_name("client", name.as_str()),
        config.places.of(&["client", name.as_str()])
    )))
}

/// A client that is there already is left as it is; one that may do something else is not what was asked for.
fn check_same(entry: &ClientEntry, add: &AddClient) -> Result<(), AdminError> {
    let name = &add.name;
    let allow: BTreeSet<_> = add.allow.iter().cloned().collect();
    if entry.rules.allow != allow {
        return Err(AdminError::run(format_args!(
            "client {name}: there is one already, which may do {}\nhint: spa-knockd client set {name} --allow {}",
            comma(&entry.rules.allow),
            comma(&allow)
        )));
    }
    notice(format_args!("client {name}: left alone (is there already)"));
    Ok(())
}

fn check_new(config: &ServerConfig, add: &AddClient) -> Result<(), AdminError> {
    let name = &add.name;
    if is_console(name) || (config.legacy.is_some() && config::is_legacy_client(name)) {
        return Err(AdminError::run(format_args!(
            "client {name}: the daemon's own name for grants of no client\nhint: choose another name"
        )));
    }
    if config.clients.contains_key(name) {
        return Err(AdminError::run(format_args!(
            "client {name}: there is one already, at {}\nhint: choose another name, or first: spa-knockd client revoke {name}",
            config.places.of(&["client", name.as_str()])
        )));
    }
    if let Some(unknown) = add.allow.iter().find(|action| !config.actions.contains_key(action)) {
        let known = comma(config.actions.keys());
        let hint = if known.is_empty() { "the config has no action yet".to_owned() } else { known };
        return Err(AdminError::run(format_args!(
            "client {name}: no action is called {unknown}\nhint: defined actions: {hint}"
        )));
    }
    Ok(())
}

/// What `--expires` says.
fn expiry(text: &str) -> Result<Timestamp, AdminError> {
    let now = clock::wall();
    let time = match text.parse::<DateTime>() {
        Ok(DateTime(time)) => time,
        Err(form) => humantime::parse_duration(text).map(|span| now.plus(span)).map_err(|_| {
            AdminError::usage(format_args!("--expires: not a time\nhint: {form}, or 90d from now"))
        })?,
    };
    if time <= now {
        return Err(AdminError::usage(format_args!("--expires: {} is over", day_or_time(time))));
    }
    Ok(time)
}

/// A time to the second, as TOML and people write it; a day's first moment is the day.
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
        "# Made by `spa-knockd client add`; `spa-knockd client revoke {}` removes it.\n\
         [{table}]\nkey = \"{}.key\"\nallow = [{}]\nsource = [{}]\n",
        add.name,
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

/// The action for an example: `open-ssh`, else one that opens something, else any.
fn example<'a>(config: &ServerConfig, allow: &BTreeSet<&'a ActionName>) -> &'a str {
    let usual = allow.iter().find(|action| action.as_str() == "open-ssh");
    let opens = |name: &&&ActionName| {
        config.actions.get(**name).is_some_and(|action| {
            action.parts.iter().any(|part| !matches!(part, ActionPart::Close(_) | ActionPart::Run { .. }))
        })
    };
    usual.or_else(|| allow.iter().find(opens)).or(allow.first()).map_or("ACTION", |action| action.as_str())
}

fn say_added(config: &ServerConfig, add: &AddClient) {
    let name = &add.name;
    let allow: BTreeSet<_> = add.allow.iter().collect();
    notice(format_args!("client {name}: added, may do {}", comma(&allow)));
    let hand_over = "hand it over on a way that nobody else can read, and keep no copy";
    match &add.output {
        Some(file) => notice(format_args!(
            "its key is in {}: {hand_over}\nit knocks with: spa-knock --key FILE SERVER {}",
            file.display(),
            example(config, &allow),
        )),
        None if add.key.is_none() => notice(format_args!("its key is what was printed: {hand_over}")),
        None => {}
    }
}

pub(crate) fn find<'a>(config: &'a ServerConfig, name: &ClientName) -> Result<&'a ClientEntry, AdminError> {
    config.clients.get(name).ok_or_else(|| {
        let known = comma(config.clients.keys());
        let hint =
            if known.is_empty() { "there are no clients".to_owned() } else { format!("clients: {known}") };
        AdminError::run(format_args!("client {name}: there is none of this name\nhint: {hint}"))
    })
}

fn comma(items: impl IntoIterator<Item: ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
