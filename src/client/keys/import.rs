//! `import`: saves a key from a server's administrator, given as a token or as the text of a key file, as a key file.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;

use zeroize::Zeroizing;

use super::sources::named;
use crate::client::agent::Signing;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::places;
use crate::client::report::Reporter;
use crate::os::files::{self, FileMode, io_error_text};
use crate::os::terminal::HiddenInput;
use spa_knock_core::crypto::{KeyFile, KeyOwner, TokenError};

/// Maximum length of a text that is read from a terminal, in bytes.
const TEXT_MAX: usize = 64 << 10;

/// Saves the key in `token`; `-` reads it from standard input.
pub(in crate::client) fn import(token: OsString) -> Result<(), ClientError> {
    let key = read(&text_of(token)?)?;
    let KeyOwner::Pair { server, secret } = &key.holder else {
        return Err(ClientError::new(ExitCause::Files, "key: only pair keys can be imported (kind: root)")
            .hint(places::SAVE_ROOT_KEY));
    };
    let path =
        named(server.as_str()).ok_or_else(|| ClientError::new(ExitCause::Files, places::NO_CONFIG_FOLDER))?;
    if let Some(folder) = path.parent() {
        files::create_folder(folder, FileMode::Private)?;
    }
    files::create_whole(&path, FileMode::Private, key.to_text().as_bytes()).map_err(|error| {
        let exists = files::exists(&path);
        let failure = ClientError::from(error);
        if exists { failure.hint("to replace it with the new key, remove it first") } else { failure }
    })?;
    let fingerprint = secret.fingerprint(key.version(), server);
    Reporter::PLAIN.note(&format!(
        "key file {}: written (fingerprint {fingerprint})\nhint: {}",
        path.display(),
        next(&key, server.as_str(), &path)
    ));
    if let Some(signing) = Signing::of_key_file(key.ssh_key) {
        Reporter::PLAIN.note(&ssh_key_text(&signing));
    }
    Ok(())
}

/// Whether the SSH key that signs the knocks is in the agent, and what to do if it is not. That is no failure: the key file
/// is written, and the profile can name another agent.
fn ssh_key_text(signing: &Signing) -> String {
    match signing.open() {
        Ok(signer) => {
            let (name, ssh_key) = (signer.key().kind().short_name(), signing.fingerprint());
            format!("SSH key {name} {ssh_key}: in the agent; it signs each knock")
        }
        Err(failure) => format!(
            "warning: {}\nhint: each knock needs a signature by this key: {}",
            failure.reason(),
            signing.how_to_add()
        ),
    }
}

fn text_of(token: OsString) -> Result<Zeroizing<String>, ClientError> {
    if token != "-" {
        let text = token.into_string().map_err(|_| refused(TokenError::Prefix))?;
        return Ok(Zeroizing::new(text));
    }
    if io::stdin().is_terminal() {
        return paste();
    }
    let text = files::read_secret_from_stdin()?;
    if !KeyFile::is_token(text.lines().next().unwrap_or_default()) {
        return Ok(text);
    }
    // Anything after a complete token is ignored.
    let mut token = secret_buffer();
    for line in text.lines() {
        token.push_str(line);
        if is_complete(&token) {
            break;
        }
    }
    Ok(token)
}

/// Reads a token or the text of a key file from the terminal, without echo, up to its last line.
fn paste() -> Result<Zeroizing<String>, ClientError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => ClientError::new(ExitCause::Usage, "interrupted; no key was saved"),
        _ => ClientError::new(ExitCause::Files, format!("terminal: {}", io_error_text(&error))),
    };
    Reporter::PLAIN.note("paste the token or the text of the key file (it is not shown), then press Enter");
    let mut terminal = HiddenInput::new().map_err(failed)?;
    let mut text = secret_buffer();
    while let Some(line) = terminal.line().map_err(failed)? {
        if line.trim().is_empty() {
            // An empty line ends an incomplete text; before the text it is skipped.
            if text.is_empty() { continue } else { break }
        }
        if text.len().saturating_add(line.len()) >= text.capacity() {
            return Err(ClientError::new(ExitCause::Files, "terminal: text is too long for a key file"));
        }
        text.push_str(&line);
        if is_complete(&text) {
            break;
        }
    }
    Ok(text)
}

/// A buffer of the maximum length: a growing string would leave copies of the secret in memory.
fn secret_buffer() -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(TEXT_MAX))
}

/// Whether a text needs no further line: a complete token, a text that no further line can turn into a token, or a key
/// file with its secret, which is its last line.
fn is_complete(text: &str) -> bool {
    if text.contains(':') {
        return KeyFile::parse(text).is_ok();
    }
    match KeyFile::from_token(text) {
        Err(TokenError::Length { found, expected }) => found >= expected,
        _ => true,
    }
}

fn read(text: &str) -> Result<KeyFile, ClientError> {
    // Each line of a key file has a colon. Other texts are more likely a token that lost its beginning.
    if !text.contains(':') {
        return KeyFile::from_token(text).map_err(refused);
    }
    KeyFile::parse(text)
        .map_err(|error| ClientError::new(ExitCause::Files, format!("text of the key file: {error}")))
}

fn refused(error: TokenError) -> ClientError {
    let failure = ClientError::new(ExitCause::Files, format!("token: {error}"));
    match error {
        TokenError::Version => failure.hint("update spa-knock"),
        TokenError::Example => failure,
        TokenError::Prefix => failure.hint(
            "paste the whole line that the server printed; a file name is not accepted: spa-knock import - < FILE",
        ),
        _ => failure.hint("copy it again, from the first character to the last; nothing was saved"),
    }
}

/// What the user can do next.
fn next(key: &KeyFile, server: &str, path: &Path) -> String {
    let knock =
        format!("run `spa-knock {server} open-ssh` to knock, if open-ssh is an action that you may request");
    match key.address {
        Some(_) => knock,
        None => format!(
            "{knock}; the key has no address: if '{server}' is not the server's host name, add its name or address to {} as a line `address: …`",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_core::crypto::{PairSecret, Secret};

    fn key() -> KeyFile {
        KeyFile {
            client: None,
            holder: KeyOwner::Pair {
                server: "bastion".parse().unwrap(),
                secret: PairSecret::new(Secret::from_bytes(&[7; 32])),
            },
            address: Some("192.0.2.7".to_owned()),
            port: None,
            ssh_key: None,
        }
    }

    #[test]
    fn a_text_is_complete_with_its_last_line_and_not_before() {
        let token = key().to_token().unwrap();
        assert!(is_complete(&token) && is_complete(&format!("{}\n", *token)));
        let (first, _) = token.split_at(40);
        assert!(!is_complete(&format!("{first}\n")), "a token broken over two lines");
        assert!(
            is_complete("ssh server\n") && is_complete("spa-knock-AF!\n"),
            "no further line can complete it"
        );
        let text = key().to_text();
        let mut so_far = String::new();
        let count = text.lines().count();
        for (number, line) in (1..).zip(text.lines()) {
            so_far.push_str(line);
            so_far.push('\n');
            assert_eq!(is_complete(&so_far), number == count, "line {number}");
        }
    }
}
