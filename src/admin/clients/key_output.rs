//! A client's key, new or derived, and its output for the client's owner.

use std::path::Path;

use zeroize::Zeroizing;

use super::qr;
use crate::admin::args::KeyForm;
use crate::config::client_keys::{LoadedClient, load_clients, pair_for};
use crate::config::public_key_file;
use crate::config::revoked_keys::RevokedKeys;
use crate::config::{KNOCK_PORT, ServerConfig};
use crate::console::{AdminError, notice_verbatim, print};
use crate::os::files;
use spa_knock_core::crypto::ssh::{PublicKey, SshFingerprint};
use spa_knock_core::crypto::{KeyFile, KeyOwner, OtpSeed, PairSecret, Secret};
use spa_knock_core::knock::{ClientName, ProtocolVersion};

/// Whether a command may give a client the secret that it has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PresentSecret {
    /// Yes.
    Accepted,
    /// No.
    Refused,
}

/// A new key, or the derived key in the file `given`. If the client has an SSH key, the key file names it.
pub(super) fn pair_key(
    config: &ServerConfig,
    name: &ClientName,
    given: Option<&Path>,
    signer: Option<&PublicKey>,
    present: PresentSecret,
) -> Result<KeyFile, AdminError> {
    let ssh_key = signer.map(PublicKey::fingerprint);
    let secret = match given {
        None => PairSecret::new(Secret::generate().map_err(AdminError::run)?),
        Some(path) => {
            let keeper = Some(name).filter(|_| present == PresentSecret::Accepted);
            given_secret(config, path, ssh_key, keeper)?
        }
    };
    let port = Some(config.port).filter(|&port| port != KNOCK_PORT);
    let holder = KeyOwner::Pair { server: config.id.clone(), secret };
    Ok(KeyFile { client: Some(name.clone()), holder, address: config.address.clone(), port, ssh_key })
}

/// Whether a key has the present secret of the client.
pub(super) fn is_present_key(
    config: &ServerConfig,
    name: &ClientName,
    key: &KeyFile,
) -> Result<bool, AdminError> {
    let KeyOwner::Pair { secret, .. } = &key.holder else { return Ok(false) };
    let clients = load_clients(config)?;
    let is_it = |client: &LoadedClient| client.name == *name && client.has_present_secret(secret, &config.id);
    Ok(clients.iter().any(is_it))
}

/// Refuses to read two keys from standard input, which can be read only once.
pub(super) fn check_stdin(key: Option<&Path>, ssh_key: Option<&Path>) -> Result<(), AdminError> {
    if [key, ssh_key].into_iter().flatten().filter(|file| *file == Path::new("-")).count() > 1 {
        return Err(AdminError::usage("--key and --ssh-key: only one of them can be standard input"));
    }
    Ok(())
}

/// Removes the key from the list of revoked keys: it was added again on purpose.
pub(crate) fn readmit(config: &ServerConfig, key: &KeyFile) -> Result<(), AdminError> {
    if let KeyOwner::Pair { secret, .. } = &key.holder {
        for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
            RevokedKeys::forget_in(&config.state_dir, secret.fingerprint(version, &config.id))?;
        }
    }
    Ok(())
}

fn given_secret(
    config: &ServerConfig,
    path: &Path,
    ssh_key: Option<SshFingerprint>,
    keeper: Option<&ClientName>,
) -> Result<PairSecret, AdminError> {
    let stdin = path == Path::new("-");
    let source = if stdin { "standard input".to_owned() } else { format!("key file {}", path.display()) };
    let text = if stdin { files::read_secret_from_stdin() } else { files::read_secret(path) };
    let text = text.map_err(AdminError::key)?;
    let key = KeyFile::parse(&text).map_err(|error| {
        if public_key_file::is_private(&text) || public_key_file::is_key(&text) {
            return AdminError::key(format_args!(
                "{source}: is an SSH key, not a key of spa-knock\nhint: for the SSH key that signs knocks, use --ssh-key FILE.pub"
            ));
        }
        AdminError::key(format_args!("{source}: {error}"))
    })?;
    let secret = pair_for(&key, &config.id)
        .map_err(|(reason, hint)| AdminError::key(format_args!("{source}: {reason}\nhint: {hint}")))?;
    // Its owner expects that each knock needs a signature. Without the SSH key, the secret alone would be enough.
    if let Some(named) = key.ssh_key.filter(|named| Some(*named) != ssh_key) {
        return Err(AdminError::key(format_args!(
            "{source}: is for the SSH key {named}, which must sign its knocks\nhint: pass this key's public key file: --ssh-key FILE.pub"
        )));
    }
    let has_it = |client: &LoadedClient| {
        let keeps_it = keeper == Some(&client.name) && client.has_present_secret(secret, &config.id);
        client.has_secret(secret, &config.id) && !keeps_it
    };
    let owner = load_clients(config)?.into_iter().find(has_it);
    if let Some(owner) = owner {
        return Err(AdminError::key(format_args!(
            "{source}: client {} already uses this secret\nhint: use a different key for each client",
            owner.name
        )));
    }
    Ok(secret.clone())
}

/// A key for its owner: the text of a key file, or a one-line token, optionally as a QR code.
pub(super) fn render(key: &KeyFile, form: &KeyForm) -> Result<Zeroizing<String>, AdminError> {
    if !form.token && !form.qr {
        return Ok(key.to_text());
    }
    // A pair key always has a token. A QR code holds fifteen times the longest token.
    let token = key.to_token().ok_or_else(|| AdminError::run("a root key has no token"))?;
    if form.qr {
        return qr::drawn(&token).ok_or_else(|| AdminError::run("the token is too long for a QR code"));
    }
    let mut line = Zeroizing::new(String::with_capacity(token.len().saturating_add(1)));
    line.push_str(&token);
    line.push('\n');
    Ok(line)
}

/// Prints the setup of one-time passwords for an app: to standard error if the key itself goes to standard output,
/// which may be a file.
pub(super) fn show_otp(
    otp: &OtpSeed,
    config: &ServerConfig,
    name: &ClientName,
    beside_key: bool,
) -> Result<(), AdminError> {
    let uri = otp.uri(&config.id, name);
    let picture = qr::drawn(&uri).unwrap_or_default();
    let mut text =
        Zeroizing::new(String::with_capacity(picture.len().saturating_add(uri.len()).saturating_add(2)));
    for part in [picture.as_str(), &uri, "\n"] {
        text.push_str(part);
    }
    if !beside_key {
        return print(&text);
    }
    notice_verbatim(text.trim_end_matches('\n'));
    Ok(())
}
