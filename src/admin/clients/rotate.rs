//! `spa-knockd client rotate`: creates a new key; the previous one stays valid for a time. The client's file names
//! both; replacing this file is the single step that makes the new key valid.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client_files::CreatedFiles;
use super::definition::public_key_line;
use super::key_output::{PresentSecret, check_stdin, is_present_key, pair_key, render};
use super::present_client::PresentClient;
use super::ssh_keys::{read_public_key, shown, signing_text, signing_with};
use super::{HAND_OVER, day_or_time};
use crate::admin::args::RotateClient;
use crate::config::client_keys::load_keys;
use crate::config::{self, ClientEntry, PreviousKey, ServerConfig, SigningEntry};
use crate::console::{AdminError, counted, notice, print};
use crate::control::{self, AskResult, Request, Response};
use crate::os::clock;
use crate::os::files;
use spa_knock_core::auth::Touch;
use spa_knock_core::crypto::KeyFile;
use spa_knock_core::knock::{ClientName, Timestamp};

/// How long a replaced key stays valid, unless the command specifies it.
const OVERLAP: Duration = Duration::from_hours(24);

/// Gives a client a new key, and a new SSH key if the command names one.
///
/// # Errors
/// When the config or the key is invalid, there is no such client, or something cannot be written. Nothing has changed
/// then.
pub(crate) fn rotate(path: &Path, rotate: &RotateClient) -> Result<(), AdminError> {
    check_stdin(rotate.key.as_deref(), rotate.ssh_key.as_deref())?;
    let config = config::load(path)?;
    let name = &rotate.name;
    let client = PresentClient::find(path, &config, name, rotate.fleet, "change `key` of")?;
    let entry = &client.entry;
    let signing = signing_after(rotate, entry)?;
    let signer = signing.as_ref().map(|signing| &signing.public_key);
    let key = pair_key(&config, name, rotate.key.as_deref(), signer, PresentSecret::Accepted)?;
    let pair = if rotate.key.is_some() && is_present_key(&config, name, &key)? {
        check_new_signer(name, entry, signing.as_ref())?;
        RotatedPair::Kept
    } else {
        RotatedPair::Replaced
    };
    let overlap = overlap(rotate, entry, signing.as_ref(), pair)?;
    client.admit(&key)?;
    let text = key.to_text();
    let handed_over = render(&key, &rotate.form)?;
    let file = free_name(&client, name);
    let until = (!overlap.is_zero()).then(|| clock::wall().plus(overlap));
    let definition = updated_definition(&client, &file, signing.as_ref(), until)?;
    let dropped = entry.previous.iter().map(|previous| &previous.key);
    let dropped: Vec<_> = dropped.chain(until.is_none().then_some(&entry.key)).cloned().collect();

    let mut created = CreatedFiles::default();
    if client.has_own_files() {
        created.file(&file, text.as_bytes())?;
    }
    if let Some(output) = &rotate.output {
        created.file(output, handed_over.as_bytes())?;
    }
    // Printed first, so that a key that no one received never becomes valid.
    if rotate.output.is_none() && rotate.key.is_none() {
        print(&handed_over)?;
    }
    client.replace(&definition, Some((&file, &text)), &dropped)?;
    created.persist();
    let new_signer = signing.as_ref().filter(|_| rotate.ssh_key.is_some());
    match (pair, new_signer) {
        (RotatedPair::Kept, Some(new)) => print_kept(name, entry, new),
        _ => print_rotated(rotate, new_signer, until),
    }
    client.apply(&dropped)
}

/// What a rotation does with the pair secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RotatedPair {
    /// The client gets another one.
    Replaced,
    /// Only the SSH key is another one: the secret is derived from a root key, which the client keeps.
    Kept,
}

/// A rotation that keeps the pair secret must change the SSH key.
fn check_new_signer(
    name: &ClientName,
    entry: &ClientEntry,
    signing: Option<&SigningEntry>,
) -> Result<(), AdminError> {
    if signing != entry.signing.as_ref() {
        return Ok(());
    }
    Err(AdminError::key(format_args!(
        "client {name}: has this key already\nhint: to keep it and set another SSH key, add --ssh-key FILE.pub; for another key, pass one that is derived from a new root key, or leave out --key"
    )))
}

/// The signing entry of the client after the rotation.
fn signing_after(rotate: &RotateClient, entry: &ClientEntry) -> Result<Option<SigningEntry>, AdminError> {
    let Some(file) = &rotate.ssh_key else {
        check_signing_is_known(entry)?;
        return Ok(entry.signing.clone());
    };
    // A client that needs a PIN never gets a key that cannot ask for one.
    let touch = entry.signing.as_ref().map(|old| old.touch).filter(|touch| *touch != Touch::default());
    let key = read_public_key(file)?;
    match touch.filter(|_| !key.kind().is_fido()) {
        Some(touch) => Err(AdminError::key(format_args!(
            "client {}: has touch = \"{}\", but {} is not a FIDO key\nhint: use a key made by ssh-keygen -t ed25519-sk -O verify-required; or remove `touch` from {}, then repeat this command",
            rotate.name,
            touch.as_str(),
            shown(&key),
            entry.defined_in.display()
        ))),
        None => signing_with(key, touch).map(Some),
    }
}

/// A client whose key file names an SSH key, but whose entry has lost it, gets no key of version 1: its secret alone would be
/// enough.
fn check_signing_is_known(entry: &ClientEntry) -> Result<(), AdminError> {
    let named = match entry.signing {
        Some(_) => None,
        None => files::read_secret(&entry.key)
            .ok()
            .and_then(|text| KeyFile::parse(&text).ok())
            .and_then(|key| key.ssh_key),
    };
    match named {
        None => Ok(()),
        Some(ssh_key) => Err(AdminError::key(format_args!(
            "key file {}: is for the SSH key {ssh_key}, but the client has no public_key\nhint: pass this key's public key file: --ssh-key FILE.pub",
            entry.key.display()
        ))),
    }
}

/// How long the replaced key stays valid. A client that gets its first SSH key has no overlap: its old key would still
/// open everything without a signature. Nor has one that keeps its pair secret, which has one SSH key at a time.
fn overlap(
    rotate: &RotateClient,
    entry: &ClientEntry,
    signing: Option<&SigningEntry>,
    pair: RotatedPair,
) -> Result<Duration, AdminError> {
    let is_first = entry.signing.is_none() && signing.is_some();
    match rotate.overlap {
        Some(overlap) if pair == RotatedPair::Kept && !overlap.is_zero() => Err(AdminError::usage(
            "--overlap: not possible for a client that keeps its key: knocks of the previous SSH key, or without a signature, are then refused\nhint: leave out --overlap",
        )),
        Some(overlap) if is_first && !overlap.is_zero() => Err(AdminError::usage(
            "--overlap: not possible for a client that gets its first SSH key: knocks without a signature are then refused\nhint: leave out --overlap; or add another client with the SSH key, and revoke this one later",
        )),
        _ if is_first || pair == RotatedPair::Kept => Ok(Duration::ZERO),
        overlap => Ok(overlap.unwrap_or(OVERLAP)),
    }
}

/// A description of a key that has been replaced.
pub(super) fn previous_text(config: &ServerConfig, name: &ClientName, previous: &PreviousKey) -> String {
    let until = day_or_time(previous.until);
    if previous.until <= clock::wall() {
        return format!("expired {until}");
    }
    let keys = load_keys(config, name, &previous.key);
    let fingerprint = keys.map_or_else(|_| "unreadable".to_owned(), |keys| keys.fingerprint.to_string());
    let request = Request::PreviousUses { client: name.to_string() };
    let uses = match control::ask(&config.control, &request) {
        Ok(AskResult::Reply(Response::Count { count })) => {
            format!("; used {} since the daemon's start", counted(count, "time"))
        }
        _ => String::new(),
    };
    let signer = previous.public_key.as_ref().map(|key| format!(", with the SSH key {}", shown(key)));
    format!("{fingerprint}{}, valid until {until}{uses}", signer.unwrap_or_default())
}

/// An unused file name for a key. The client's present names are in use even if the files are lost: what has one of them is
/// removed with the replaced key.
fn free_name(client: &PresentClient<'_>, name: &ClientName) -> PathBuf {
    let numbered = |number: u64| client.key_file(&format!("{name}.{number}.key"));
    let entry = &client.entry;
    let is_named = |path: &PathBuf| {
        *path == entry.key || entry.previous.as_ref().is_some_and(|previous| previous.key == *path)
    };
    (2..).map(numbered).find(|path| !is_named(path) && !client.has_file(path)).unwrap_or_else(|| numbered(0))
}

/// The client's definition with the new key and this SSH key; the rest stays the same.
fn updated_definition(
    client: &PresentClient<'_>,
    key: &Path,
    signing: Option<&SigningEntry>,
    until: Option<Timestamp>,
) -> Result<String, AdminError> {
    let entry = &client.entry;
    let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A key in another directory is named by its full path.
    let old_key = if entry.key.parent() == key.parent() {
        file_name(&entry.key)
    } else {
        entry.key.display().to_string()
    };
    let mut lines = vec![format!("key = {:?}", file_name(key))];
    let old_signer = entry.signing.as_ref().map(|old| &old.public_key);
    let signer = signing.map(|signing| &signing.public_key);
    let replaced_signer = old_signer.filter(|_| old_signer != signer);
    if let Some(until) = until {
        let signer = replaced_signer.map(|key| format!(", {}", public_key_line(key))).unwrap_or_default();
        lines.push(format!("previous = {{ key = {old_key:?}, until = {}{signer} }}", day_or_time(until)));
    }
    lines.extend(signer.map(public_key_line));
    // Only FIDO keys have a `touch`. A client that needs a PIN has been refused before.
    let has_touch = signer.is_none_or(|key| key.kind().is_fido());
    let mut text = String::new();
    for line in client.text.lines() {
        let sets = |name: &str| {
            line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        if sets("key") {
            text.extend(lines.drain(..).map(|line| line + "\n"));
        } else if !(sets("previous") || sets("public_key") || (sets("touch") && !has_touch)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    let is_expected = |new: ClientEntry| {
        new.key == key
            && new.otp == entry.otp
            && new.rules == entry.rules
            && new.signing.as_ref() == signing
            && new.previous.is_some() == until.is_some()
            && new.previous.iter().all(|previous| previous.public_key.as_ref() == replaced_signer)
    };
    if client.read_as(&text).is_ok_and(|new| new.is_some_and(is_expected)) {
        return Ok(text);
    }
    Err(AdminError::run(format_args!(
        "{}: unchanged, because it does not have the form that `client add` writes\nhint: give the key a line of its own: key = \"NAME.key\"",
        client.place()
    )))
}

/// Reports another SSH key beside the same pair secret. There is no key to hand over.
fn print_kept(name: &ClientName, entry: &ClientEntry, new: &SigningEntry) {
    let old = match &entry.signing {
        Some(old) => format!("knocks of its previous SSH key are refused: {}", shown(&old.public_key)),
        None => "knocks without a signature are refused".to_owned(),
    };
    notice(format_args!("client {name}: keeps its key; {old}"));
    notice(format_args!("client {name}: its SSH key signs each knock from now on: {}", signing_text(new)));
    notice(format_args!("hint: its owner knocks with --sign FILE.pub, or sets `sign` in the profile"));
}

fn print_rotated(rotate: &RotateClient, new_signer: Option<&SigningEntry>, until: Option<Timestamp>) {
    let name = &rotate.name;
    let old = match until {
        Some(until) => format!("the previous one is valid until {}", day_or_time(until)),
        None => "the previous one is no longer valid".to_owned(),
    };
    notice(format_args!("client {name}: has a new key; {old}"));
    if let Some(signing) = new_signer {
        notice(format_args!(
            "client {name}: its SSH key signs each knock from now on: {}",
            signing_text(signing)
        ));
    }
    match &rotate.output {
        Some(file) => notice(format_args!("its key is in {}: {HAND_OVER}", file.display())),
        None if rotate.key.is_none() => notice(format_args!("its key is printed above: {HAND_OVER}")),
        None => return,
    }
    // Nothing records whether the previous key was derived.
    notice(format_args!(
        "hint: if the client derives its key from a root key, pass the derived key instead: --key FILE; the root key does not lead to this one"
    ));
}
