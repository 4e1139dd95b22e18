//! Loads the clients' keys from the files that the config names.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ClientEntry, ConfigErrors, PreviousKey, Problem, ServerConfig, SourceLocation, full_name};
use zeroize::Zeroizing;

use crate::console::own_command;
use crate::os::{clock, files};
use spa_knock_core::auth::{ClientRules, Touch};
use spa_knock_core::crypto::ssh::PublicKey;
use spa_knock_core::crypto::{Fingerprint, KeyFile, KeyOwner, KeySet, OtpSeed, PairSecret};
use spa_knock_core::knock::{ClientName, ProtocolVersion, ServerId, Timestamp};

/// A client with its keys.
pub struct LoadedClient {
    /// The name that the administrator gave it.
    pub name: ClientName,
    /// Its allowed actions and limits.
    pub rules: ClientRules,
    /// The keys derived from its pair secret.
    pub keys: KeySet,
    /// The seed of its one-time passwords.
    pub otp: Option<OtpSeed>,
    /// The SSH key that must sign its knocks, and what a FIDO device must state.
    pub signing: Option<(PublicKey, Touch)>,
    /// The keys before the last rotation, while they are valid.
    pub previous: Option<PreviousKeys>,
    /// Identify its pair secrets, whatever version of the protocol they are used in.
    secrets: Vec<Fingerprint>,
}

/// The keys of a client before the last rotation.
pub struct PreviousKeys {
    /// The keys derived from its previous pair secret.
    pub keys: KeySet,
    /// When they stop being valid.
    pub until: Timestamp,
    /// The SSH key that must sign knocks with them, if it is not the current one.
    pub public_key: Option<PublicKey>,
}

impl LoadedClient {
    /// All key sets that are valid for its knocks.
    pub fn key_sets(&self) -> impl Iterator<Item = &KeySet> {
        std::iter::once(&self.keys).chain(self.previous.iter().map(|previous| &previous.keys))
    }

    /// Whether this pair secret is its present one, which a rotation has not replaced.
    pub(crate) fn has_present_secret(&self, secret: &PairSecret, server: &ServerId) -> bool {
        self.secrets.last() == Some(&identity(secret, server))
    }

    /// Whether it has this pair secret.
    pub(crate) fn has_secret(&self, secret: &PairSecret, server: &ServerId) -> bool {
        self.secrets.contains(&identity(secret, server))
    }
}

/// Reads the key file of every client.
///
/// # Errors
/// Every unusable key, and every pair of clients with the same secret. No error contains a byte of a secret.
pub fn load_clients(config: &ServerConfig) -> Result<Vec<LoadedClient>, ConfigErrors> {
    let mut problems = Vec::new();
    let mut clients: Vec<LoadedClient> = Vec::new();
    let mut owners: BTreeMap<Fingerprint, ClientName> = BTreeMap::new();
    for (name, entry) in &config.clients {
        let client = match load_client(config, name, entry) {
            Ok(client) => client,
            #[cfg(feature = "fleet")]
            Err(problem) if entry.defined_in.starts_with(super::fleet_folder(&config.state_dir)) => {
                // As for its other problems: it must not keep all others out.
                log::warn!("{problem}; the client of the fleet is left out");
                continue;
            }
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        for secret in &client.secrets {
            if let Some(owner) = owners.insert(*secret, name.clone()) {
                problems.push(problem(
                    config,
                    name,
                    "key",
                    format!("same secret as client {owner}"),
                    Some(format!("revoke one of the clients and add it again: {}", new_key())),
                ));
            }
        }
        clients.push(client);
    }
    if problems.is_empty() { Ok(clients) } else { Err(ConfigErrors::of(problems)) }
}

fn new_key() -> String {
    format!("`{}` creates a new key", own_command("client add"))
}

fn load_client(
    config: &ServerConfig,
    name: &ClientName,
    entry: &ClientEntry,
) -> Result<LoadedClient, Problem> {
    let still_valid = entry.previous.as_ref().filter(|previous| previous.until > clock::wall());
    let mut secrets = Vec::new();
    let mut load = |file| {
        let secret = load_secret(config, name, file)?;
        secrets.push(identity(&secret, &config.id));
        Ok(derived(&secret, entry.version(), &config.id))
    };
    let previous = still_valid
        .map(|PreviousKey { key, until, public_key }| {
            let (until, public_key) = (*until, public_key.clone());
            load(key).map(|keys| PreviousKeys { keys, until, public_key })
        })
        .transpose()?;
    let keys = load(&entry.key)?;
    let otp = entry.otp.as_ref().map(|file| load_otp(config, name, file)).transpose()?;
    let signing = entry.signing.as_ref().map(|signing| (signing.public_key.clone(), signing.touch));
    Ok(LoadedClient { otp, name: name.clone(), rules: entry.rules.clone(), keys, signing, previous, secrets })
}

/// Derives the keys of this version. For a client with a public key, no key of version 1 is ever derived.
pub(crate) fn derived(secret: &PairSecret, version: ProtocolVersion, server: &ServerId) -> KeySet {
    match version {
        ProtocolVersion::V1 => secret.keys(server),
        ProtocolVersion::V2 => secret.signed_keys(server),
    }
}

/// Identifies a pair secret, whatever version it is used in.
fn identity(secret: &PairSecret, server: &ServerId) -> Fingerprint {
    secret.fingerprint(ProtocolVersion::V2, server)
}

/// Reads a key file of a client.
///
/// # Errors
/// The reason why the key is unusable, located at the config value that names it.
pub(crate) fn load_keys(config: &ServerConfig, name: &ClientName, file: &Path) -> Result<KeySet, Problem> {
    let version = config.clients.get(name).map_or(ProtocolVersion::V1, ClientEntry::version);
    load_secret(config, name, file).map(|secret| derived(&secret, version, &config.id))
}

/// The fingerprint of a key file, even if its mode makes it unusable. Used to revoke the key.
pub(crate) fn fingerprint_of(
    config: &ServerConfig,
    version: ProtocolVersion,
    file: &Path,
) -> Option<Fingerprint> {
    let key = KeyFile::parse(&files::read_exposed_secret(file).ok()?).ok()?;
    pair_for(&key, &config.id).ok().map(|secret| secret.fingerprint(version, &config.id))
}

/// Reads the pair secret in a client's key file.
///
/// # Errors
/// The reason why it is unusable, located at the config value that names it.
pub(crate) fn load_secret(
    config: &ServerConfig,
    name: &ClientName,
    file: &Path,
) -> Result<PairSecret, Problem> {
    let at_key = |reason: String, hint: Option<String>| {
        problem(config, name, "key", format!("key file {}: {reason}", file.display()), hint)
    };
    // `client add` refuses a client that exists, and an overlap would need the lost key.
    let rotate = format!("client rotate {name} --overlap 0s");
    let lost = || format!("restore the file, or create a new key: {}", own_command(&rotate));
    let text = read_secret(file, lost).map_err(|(reason, hint)| at_key(reason, hint))?;
    let key = KeyFile::parse(&text).map_err(|error| at_key(error.to_string(), None))?;
    // A lost line of the config must not make a client whose knocks are signed one whose secret is enough.
    let is_signed = config.clients.get(name).is_some_and(|entry| entry.signing.is_some());
    if let Some(ssh_key) = key.ssh_key.filter(|_| !is_signed) {
        let hint = format!(
            "add the text of this key as public_key, or give the client a new key: {}",
            own_command(&format!("client rotate {name} --ssh-key FILE.pub"))
        );
        return Err(at_key(
            format!("is for the SSH key {ssh_key}, but the client has no public_key"),
            Some(hint),
        ));
    }
    pair_for(&key, &config.id).cloned().map_err(|(reason, hint)| at_key(reason, Some(hint)))
}

/// Reads the seed of a client's one-time passwords.
fn load_otp(config: &ServerConfig, name: &ClientName, file: &Path) -> Result<OtpSeed, Problem> {
    let at_otp = |reason: String, hint: Option<String>| {
        problem(config, name, "otp", format!("file {}: {reason}", file.display()), hint)
    };
    let revoke = own_command(&format!("client revoke {name}"));
    let lost = || format!("restore the file, or add the client again with --otp, after: {revoke}");
    let text = read_secret(file, lost).map_err(|(reason, hint)| at_otp(reason, hint))?;
    OtpSeed::parse(&text).map_err(|error| at_otp(error.to_string(), None))
}

/// Reads a secret file. The error holds the reason and a hint; `lost` is the one for a file that does not exist.
fn read_secret(
    file: &Path,
    lost: impl FnOnce() -> String,
) -> Result<Zeroizing<String>, (String, Option<String>)> {
    files::read_daemon_secret(file).map_err(|error| {
        let about_file = Path::new(&error.path) == file;
        let reason = if about_file { error.reason } else { format!("{}: {}", error.path, error.reason) };
        (reason, error.hint.or_else(|| error.missing.then(lost)))
    })
}

/// The pair secret of a key that belongs to this server.
///
/// # Errors
/// The reason why the key does not belong to this server, and a hint.
pub(crate) fn pair_for<'a>(key: &'a KeyFile, id: &ServerId) -> Result<&'a PairSecret, (String, String)> {
    match &key.holder {
        KeyOwner::Pair { server, secret } if server == id => Ok(secret),
        KeyOwner::Pair { server, .. } => Err((
            format!("belongs to server {server}, not to {id}"),
            format!("server.id and the key's `server` must be equal; {}", new_key()),
        )),
        KeyOwner::Root(_) => Err((
            "is a root key, which opens every server of its owner".to_owned(),
            format!(
                "ask its owner to derive a key for this server: spa-knock derive --key ROOT --server-id {id}"
            ),
        )),
    }
}

fn problem(
    config: &ServerConfig,
    name: &ClientName,
    what: &str,
    message: String,
    hint: Option<String>,
) -> Problem {
    let place: SourceLocation = config.places.of(&["client", name.as_str(), what]).clone();
    let client = full_name("client", name.as_str());
    Problem { place, message: format!("{client}.{what}: {message}"), hint }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{ConfigText, read};
    use crate::os::files::FileMode;

    const A: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const SSH_KEY: &str = "SHA256:zzECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const B: &str = "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn load(keys: &[(&str, &str)]) -> Result<usize, String> {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().display().to_string();
        let mut text =
            format!("[server]\nid='a'\nkeys_dir='{folder}'\n[action.o]\nopen=['tcp/22']\nfor='30s'\n");
        for (name, key) in keys {
            text += &format!("[client.{name}]\nkey='{name}.key'\nallow=['o']\n");
            if !key.is_empty() {
                let path = scratch.path().join(format!("{name}.key"));
                files::create_new(&path, FileMode::Private, key.as_bytes()).unwrap();
            }
        }
        let config = read(&ConfigText { file: PathBuf::from("f"), text }, &[]).unwrap();
        load_clients(&config)
            .map(|clients| clients.len())
            .map_err(|error| error.to_string().replace(&folder, "K"))
    }

    fn pair(server: &str, secret: &str) -> String {
        format!("spa-knock-key: 1\nkind: pair\nserver: {server}\nsecret: {secret}\n")
    }

    #[test]
    fn the_keys_of_all_clients_are_loaded() {
        assert_eq!(load(&[("c", &pair("a", A)), ("d", &pair("a", B))]), Ok(2));
    }

    #[test]
    fn every_unusable_key_is_reported_at_its_name_without_the_secret() {
        let root = format!("spa-knock-key: 1\nkind: root\nsecret: {A}\n");
        let cases = [
            (
                "",
                "key file K/c.key: no such file or directory\nhint: restore the file, or create a new key: \
                 spa-knockd client rotate c --overlap 0s",
            ),
            ("rubbish", "key file K/c.key: line 1: expected 'name: value'"),
            (
                root.as_str(),
                "key file K/c.key: is a root key, which opens every server of its owner\n\
                 hint: ask its owner to derive a key for this server: spa-knock derive --key ROOT --server-id a",
            ),
            (
                &format!("spa-knock-key: 2\nkind: pair\nserver: a\nssh-key: {SSH_KEY}\nsecret: {A}\n"),
                "key file K/c.key: is for the SSH key SHA256:zzECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8, \
                 but the client has no public_key\n\
                 hint: add the text of this key as public_key, or give the client a new key: \
                 spa-knockd client rotate c --ssh-key FILE.pub",
            ),
            (
                &pair("b", A),
                "key file K/c.key: belongs to server b, not to a\n\
                 hint: server.id and the key's `server` must be equal; `spa-knockd client add` creates a new key",
            ),
        ];
        for (key, message) in cases {
            let error = load(&[("c", key)]).unwrap_err();
            assert_eq!(error, format!("f:8:5: client.c.key: {message}"));
            assert!(!error.contains(&A[..8]));
        }
        let two = load(&[("c", ""), ("d", "rubbish")]).unwrap_err();
        assert!(two.contains("client.c.key") && two.contains("client.d.key"), "{two}");
    }

    #[test]
    fn two_clients_with_one_secret_are_refused_by_name() {
        assert_eq!(
            load(&[("c", &pair("a", A)), ("d", &pair("a", A))]).unwrap_err(),
            "f:11:5: client.d.key: same secret as client c\n\
             hint: revoke one of the clients and add it again: `spa-knockd client add` creates a new key"
        );
    }
}
