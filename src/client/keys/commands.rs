//! `keygen`, `derive` and `show`: create keys, and show what a key is for.

use std::fmt::Write as _;
use std::path::Path;

use super::sources::{Key, Origin, VARIABLE, has_root_key, key_files, key_name};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::{Reporter, print};
use crate::os::env;
use crate::os::files::{self, FileMode};
use spa_knock_core::crypto::{KeyFile, KeyOwner, RootSecret, Secret};
use spa_knock_core::knock::{ClientName, ServerId};

/// What the owner of an SSH key must know: everyone who reaches the agent's socket can request signatures.
const FORWARDING: &str = "
Knocks need this key file and a signature by the SSH key, which ssh-agent makes.
Do not forward the agent to other hosts (ssh -A): anyone there who has this key
file can request signatures for knocks. Use `ssh -J` (ProxyJump) instead; or a FIDO
key, which must be touched; or a key for knocks alone, in an agent that is not
forwarded (`agent` in the profile). Keys in a forwarded agent: add them with
`ssh-add -h`, so that they cannot sign knocks.
";

/// Creates a root key: writes it to a file that does not exist yet, else to standard output.
pub(in crate::client) fn keygen(
    output: Option<&Path>,
    client: Option<ClientName>,
) -> Result<(), ClientError> {
    let secret = Secret::generate().map_err(|error| ClientError::new(ExitCause::Files, error.to_string()))?;
    let key = KeyFile {
        client,
        holder: KeyOwner::Root(RootSecret::new(secret)),
        address: None,
        port: None,
        ssh_key: None,
    };
    let Some(path) = output.filter(|path| path.as_os_str() != "-") else {
        return print(key.to_text().as_bytes());
    };
    // On Windows, no shell has replaced `~`.
    let path = &*if cfg!(windows) { env::expanded(path) } else { path.to_owned() };
    files::create_whole(path, FileMode::Private, key.to_text().as_bytes())?;
    let path = path.display();
    Reporter::PLAIN.note(&format!(
        "key file {path}: written\nhint: run `spa-knock derive --key {path} --server-id ID` and give its output to that server's administrator"
    ));
    Ok(())
}

/// Prints the pair key file for the administrator of `server`.
pub(in crate::client) fn derive(given: Option<&Path>, server: ServerId) -> Result<(), ClientError> {
    let key = Key::for_command(given)?;
    let KeyOwner::Root(root) = &key.file.holder else {
        return Err(ClientError::new(
            ExitCause::Files,
            format!("{}: already belongs to one server (kind: pair)", key.origin),
        )
        .hint("derive from a root key; spa-knock keygen creates one"));
    };
    let secret = root.pair(&server);
    if let Some(ssh_key) = key.file.ssh_key {
        Reporter::PLAIN.hint(&format!(
            "also give the administrator the public key {ssh_key}, for `spa-knockd client add NAME --key FILE --ssh-key FILE.pub`"
        ));
    }
    let pair = KeyFile {
        client: key.file.client.clone(),
        holder: KeyOwner::Pair { server, secret },
        address: None,
        port: None,
        // So that the server refuses to make a client of it whose secret is enough.
        ssh_key: key.file.ssh_key,
    };
    print(pair.to_text().as_bytes())
}

/// The key that `show` prints if it is not given a server.
pub(in crate::client) fn key_to_show(given: Option<&Path>) -> Result<Key, ClientError> {
    Key::for_command(given).map_err(|failure| match key_files().first() {
        // `import` has saved keys, each for one server.
        Some(path) if given.is_none() && env::text(VARIABLE).is_none() && !has_root_key() => failure.hint(
            format!("name the server whose key you want to see, e.g. `spa-knock show {}`", key_name(path)),
        ),
        _ => failure,
    })
}

/// Prints what a key file is for, but never the secret.
pub(in crate::client) fn show(key: &Key) -> Result<(), ClientError> {
    let file = match &key.origin {
        Origin::File(path) => path.display().to_string(),
        other => other.to_string(),
    };
    let (server, version) = (key.server(), key.file.version());
    let mut text = String::new();
    for (name, value) in [
        ("file", Some(file)),
        ("kind", Some(key.kind().to_owned())),
        ("client", key.file.client.as_ref().map(ToString::to_string)),
        ("server", server.map_or(Some("any".to_owned()), |server| Some(server.to_string()))),
        ("address", key.file.address.clone()),
        ("port", key.file.port.map(|port| port.to_string())),
        ("fingerprint", server.map(|server| key.file.fingerprint(version, server).to_string())),
        ("ssh key", key.file.ssh_key.map(|ssh_key| ssh_key.to_string())),
    ] {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<12} {value}");
        }
    }
    if key.file.ssh_key.is_some() {
        text.push_str(FORWARDING);
    }
    print(text.as_bytes())
}
