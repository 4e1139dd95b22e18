//! Which clients `client add` adds: the one that it names, or one for each SSH key of a user; with `--if-missing`, only
//! those that are missing.

use std::collections::BTreeSet;

use super::ssh_keys::{self, signing_text};
use super::{comma, joined};
use crate::admin::args::AddClient;
use crate::config::{ClientEntry, ServerConfig, SigningEntry};
use crate::console::{AdminError, notice, own_command};
use spa_knock_core::crypto::ssh::PublicKey;
use spa_knock_core::knock::{ClientName, Timestamp};

/// A client that is about to be added: who signs its knocks, and until when.
pub(super) struct Enrollment {
    pub(super) name: ClientName,
    pub(super) signing: Option<SigningEntry>,
    pub(super) expires: Option<Timestamp>,
}

/// The client that the command names; none if it is not missing.
///
/// # Errors
/// With `--if-missing`, when there is a client of this name that is another one.
pub(super) fn enrollment_of(
    config: &ServerConfig,
    add: &AddClient,
    signing: Option<SigningEntry>,
    expires: Option<Timestamp>,
) -> Result<Option<Enrollment>, AdminError> {
    match config.clients.get(&add.name).filter(|_| add.if_missing) {
        Some(entry) => check_same(&add.name, entry, add, signing.as_ref()).map(|()| None),
        None => Ok(Some(Enrollment { name: add.name.clone(), signing, expires })),
    }
}

/// One client for each key of `user`: NAME, or NAME-1, NAME-2, … for several.
///
/// # Errors
/// When there are clients for some of the keys, or of their names; with `--if-missing`, when such a client is another
/// one than the command would add.
pub(super) fn enrollments_of(
    config: &ServerConfig,
    add: &AddClient,
    user: &str,
    expires: Option<Timestamp>,
) -> Result<Vec<Enrollment>, AdminError> {
    let keys = ssh_keys::keys_of(user)?;
    let is_single = keys.len() == 1;
    let (mut missing, mut existing) = (Vec::new(), BTreeSet::new());
    for (number, key) in (1..).zip(keys) {
        let usual = if is_single { add.name.clone() } else { numbered(&add.name, number)? };
        let signing = SigningEntry { public_key: key.key, touch: key.touch };
        match client_with(config, &add.name, &signing.public_key) {
            Some((name, entry)) if add.if_missing => check_same(name, entry, add, Some(&signing))?,
            Some((name, _)) => drop(existing.insert(name.clone())),
            None => {
                if !add.if_missing && config.clients.contains_key(&usual) {
                    existing.insert(usual.clone());
                }
                missing.push((usual, signing, [expires, key.expires].into_iter().flatten().min()));
            }
        }
    }
    if !existing.is_empty() {
        return Err(exist_already(user, &existing));
    }
    let mut names = BTreeSet::new();
    let with_name = |(usual, signing, expires)| {
        let is_free = |name: &ClientName| !config.clients.contains_key(name) && !names.contains(name);
        // A client of this name can have a key that the user has replaced.
        let name = if is_free(&usual) { usual } else { next_name(&add.name, is_free)? };
        names.insert(name.clone());
        Ok(Enrollment { name, signing: Some(signing), expires })
    };
    missing.into_iter().map(with_name).collect()
}

/// The client with this SSH key among those of one user.
fn client_with<'a>(
    config: &'a ServerConfig,
    base: &ClientName,
    key: &PublicKey,
) -> Option<(&'a ClientName, &'a ClientEntry)> {
    let is_of_user = |name: &ClientName| {
        let number = name.as_str().strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('-'));
        name == base || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let has_key = |entry: &ClientEntry| entry.signing.as_ref().is_some_and(|own| own.public_key == *key);
    config.clients.iter().find(|(name, entry)| is_of_user(name) && has_key(entry))
}

/// NAME-1, NAME-2, …
fn numbered(base: &ClientName, number: usize) -> Result<ClientName, AdminError> {
    let text = format!("{base}-{number}");
    text.parse().map_err(|error| {
        AdminError::usage(format_args!("client {text}: {error}\nhint: choose a shorter name"))
    })
}

/// The first of these names that is free.
fn next_name(base: &ClientName, is_free: impl Fn(&ClientName) -> bool) -> Result<ClientName, AdminError> {
    let mut number = 1_usize;
    loop {
        let name = numbered(base, number)?;
        if is_free(&name) {
            return Ok(name);
        }
        number = number.saturating_add(1);
    }
}

fn exist_already(user: &str, existing: &BTreeSet<ClientName>) -> AdminError {
    let (subject, verb) = if existing.len() > 1 { ("clients", "exist") } else { ("client", "exists") };
    AdminError::run(format_args!(
        "{subject} {}: {verb} already; nothing was changed\nhint: --if-missing adds only the keys of {user} that have no client yet; or choose another name",
        joined(existing)
    ))
}

/// For `--if-missing`: an existing client stays unchanged, but its allowed actions and its SSH key must be the requested
/// ones.
fn check_same(
    name: &ClientName,
    entry: &ClientEntry,
    add: &AddClient,
    signing: Option<&SigningEntry>,
) -> Result<(), AdminError> {
    let allow: BTreeSet<_> = add.allow.iter().cloned().collect();
    if entry.rules.allow != allow {
        return Err(AdminError::run(format_args!(
            "client {name}: exists already, allowed actions: {}\nhint: {}",
            joined(&entry.rules.allow),
            own_command(&format!("client set {name} --allow {}", comma(&allow)))
        )));
    }
    if entry.signing.as_ref() != signing {
        let own = entry.signing.as_ref().map_or_else(|| "none".to_owned(), signing_text);
        let hint = match (&entry.signing, signing) {
            (Some(_), None) => "to require this SSH key, name it: --ssh-key FILE.pub".to_owned(),
            (Some(own), Some(new)) if own.public_key == new.public_key => format!(
                "set `touch = \"{}\"` in {}, then: {}",
                new.touch.as_str(),
                entry.defined_in.display(),
                own_command("reload")
            ),
            _ => format!(
                "to replace its keys: {}",
                own_command(&format!("client rotate {name} --ssh-key FILE.pub"))
            ),
        };
        return Err(AdminError::run(format_args!(
            "client {name}: exists already, its SSH key: {own}\nhint: {hint}"
        )));
    }
    notice(format_args!("client {name}: unchanged (exists already)"));
    Ok(())
}
