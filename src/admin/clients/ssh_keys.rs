//! The SSH keys that sign the knocks of clients: from a public key file, or from the `authorized_keys` of a user.

use std::path::Path;

use super::authorized_keys::{AuthorizedKey, AuthorizedKeys};
use crate::config::SigningEntry;
use crate::config::public_key_file::{self, MAKE_A_KEY, PublicKeyFileError};
use crate::console::{AdminError, notice};
use crate::os::files::{self, FileError};
use crate::os::{clock, host};
use spa_knock_core::auth::Touch;
use spa_knock_core::crypto::ssh::PublicKey;

const AUTHORIZED_KEYS: &str = ".ssh/authorized_keys";
/// How to add several keys.
const OF_USER: &str = "; --ssh-keys-of USER adds a client for each key of a user";

/// The signing entry of a client; only FIDO keys have a `touch`.
pub(super) fn signing_with(public_key: PublicKey, touch: Option<Touch>) -> Result<SigningEntry, AdminError> {
    if let Some(touch) = touch.filter(|_| !public_key.kind().is_fido()) {
        return Err(AdminError::key(format_args!(
            "touch = \"{}\": {} is not a FIDO key\nhint: use a key made by ssh-keygen -t ed25519-sk",
            touch.as_str(),
            shown(&public_key)
        )));
    }
    Ok(SigningEntry { public_key, touch: touch.unwrap_or_default() })
}

/// A signing entry in messages: its key, and what a FIDO device must check.
pub(super) fn signing_text(signing: &SigningEntry) -> String {
    let is_fido = signing.public_key.kind().is_fido();
    let touch = if is_fido { format!(", touch: {}", signing.touch.as_str()) } else { String::new() };
    format!("{}{touch}", shown(&signing.public_key))
}

/// Fingerprint and kind, as `ssh-keygen -l` prints them.
pub(super) fn shown(key: &PublicKey) -> String {
    format!("{} ({})", key.fingerprint(), key.kind().short_name())
}

/// Reads the only key in a public key file; `-` is standard input. A private key is refused.
pub(super) fn read_public_key(file: &Path) -> Result<PublicKey, AdminError> {
    let is_stdin = file == Path::new("-");
    // A private key can be there by mistake, so the text is treated as a secret.
    let (source, text) = if is_stdin {
        ("standard input".to_owned(), files::read_secret_from_stdin())
    } else {
        (format!("public key file {}", file.display()), files::read_exposed_secret(file))
    };
    let text = text.map_err(|error| match is_stdin {
        true => AdminError::key(error),
        false if error.hint.is_some() => AdminError::key(format_args!("public key file {error}")),
        false => AdminError::key(format_args!("public key file {error}\nhint: {}", missing_hint(file))),
    })?;
    public_key_file::read(&text).map_err(|error| {
        let each = if error == PublicKeyFileError::Several { OF_USER } else { "" };
        AdminError::key(format_args!("{source}: {error}\nhint: {}{each}", error.hint()))
    })
}

/// What to do if there is no file of this name.
fn missing_hint(file: &Path) -> &'static str {
    let name = file.to_string_lossy();
    match &*name {
        key if public_key_file::is_key(key) => {
            "--ssh-key takes a file; `-` reads the key from standard input"
        }
        url if url.contains("://") => {
            "--ssh-key takes a file: fetch the key first, and check whose key it is"
        }
        _ => "name a file with a public key (FILE.pub), or `-` for standard input",
    }
}

/// The keys in the `authorized_keys` of `user` that can sign knocks. Reports the others.
///
/// # Errors
/// When someone else can change the file, or no key is left.
pub(super) fn keys_of(user: &str) -> Result<Vec<AuthorizedKey>, AdminError> {
    let account = host::account(user)
        .ok_or_else(|| AdminError::key(format_args!("user {user}: no such user on this host")))?;
    let path = account.home.join(AUTHORIZED_KEYS);
    let text = files::read_text_of_account(&path, account.uid, &account.home)
        .map_err(|error: FileError| AdminError::key(format_args!("keys of user {user}: {error}")))?;
    let keys = AuthorizedKeys::parse(&text, clock::wall());
    for skipped in &keys.skipped {
        notice(format_args!("skipped: {} {skipped}", path.display()));
    }
    if keys.usable.is_empty() {
        return Err(AdminError::key(format_args!(
            "user {user}: no key in {} can sign knocks; nothing was changed\nhint: {MAKE_A_KEY}",
            path.display()
        )));
    }
    Ok(keys.usable)
}
