//! `import`: a key that a server's admin has handed over, as a token or as a key file's text, becomes a key file.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;

use zeroize::Zeroizing;

use super::sources::named;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::files::{self, FileMode, io_error_text};
use crate::os::terminal::HiddenInput;
use spa_knock_core::crypto::{KeyFile, KeyOwner, TokenError};

/// The longest text that is read from a terminal, in bytes.
const TEXT_MAX: usize = 64 << 10;

/// Keeps the key that `token` is, or that standard input holds where it is `-`.
pub(in crate::client) fn import(token: OsString) -> Result<(), ClientError> {
    let key = read(&text_of(token)?)?;
    let KeyOwner::Pair { server, secret } = &key.holder else {
        return Err(ClientError::new(ExitCause::Files, "key: is for all servers (kind: root)")
            .hint("put its text into ~/.knock.key, mode 0600"));
    };
    let path = named(server.as_str()).ok_or_else(|| {
        ClientError::new(ExitCause::Files, "no home folder to keep the key in: $HOME is not set")
    })?;
    if let Some(folder) = path.parent() {
        files::create_folder(folder, FileMode::Private)?;
    }
    files::create_new(&path, FileMode::Private, key.to_text().as_bytes()).map_err(|error| {
        let there = files::exists(&path);
        let failure = ClientError::from(error);
        if there { failure.hint("if the new key is to take its place, remove it first") } else { failure }
    })?;
    let fingerprint = secret.keys(server).fingerprint;
    Reporter::PLAIN.note(&format!(
        "key file {}: written (fingerprint {fingerprint})\nhint: {}",
        path.display(),
        next(&key, server.as_str(), &path)
    ));
    Ok(())
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
    // What is behind a whole token is no part of it.
    let mut token = room();
    for line in text.lines() {
        token.push_str(line);
        if is_whole(&token) {
            break;
        }
    }
    Ok(token)
}

/// A token or a key file's text from the terminal, which does not show it: as many lines as belong to it.
fn paste() -> Result<Zeroizing<String>, ClientError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => ClientError::new(ExitCause::Usage, "stopped; no key was kept"),
        _ => ClientError::new(ExitCause::Files, format!("terminal: {}", io_error_text(&error))),
    };
    Reporter::PLAIN.note("paste the token or the key file's text (it is not shown), then press Enter");
    let mut terminal = HiddenInput::new().map_err(failed)?;
    let mut text = room();
    while let Some(line) = terminal.line().map_err(failed)? {
        if line.trim().is_empty() {
            // An empty line ends what is cut off; before the text it has no meaning.
            if text.is_empty() { continue } else { break }
        }
        if text.len().saturating_add(line.len()) >= text.capacity() {
            return Err(ClientError::new(ExitCause::Files, "terminal: too long for a key file"));
        }
        text.push_str(&line);
        if is_whole(&text) {
            break;
        }
    }
    Ok(text)
}

/// Room for everything: a growing string would leave copies of the secret behind.
fn room() -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(TEXT_MAX))
}

/// Whether nothing more belongs to a text: all of a token is there, or what no further line can complete; or a key file
/// with its secret, which is printed last.
fn is_whole(text: &str) -> bool {
    if text.contains(':') {
        return KeyFile::parse(text).is_ok();
    }
    match KeyFile::from_token(text) {
        Err(TokenError::Length { found, expected }) => found >= expected,
        _ => true,
    }
}

fn read(text: &str) -> Result<KeyFile, ClientError> {
    // What is neither is more likely a token that lost its beginning: a key file has a colon in every line.
    if !text.contains(':') {
        return KeyFile::from_token(text).map_err(refused);
    }
    KeyFile::parse(text)
        .map_err(|error| ClientError::new(ExitCause::Files, format!("key file's text: {error}")))
}

fn refused(error: TokenError) -> ClientError {
    let failure = ClientError::new(ExitCause::Files, format!("token: {error}"));
    match error {
        TokenError::Version => failure.hint("update spa-knock"),
        TokenError::Example => failure,
        _ => failure.hint("copy it again, from the first character to the last; nothing was kept"),
    }
}

/// What the person can do now.
fn next(key: &KeyFile, server: &str, path: &Path) -> String {
    let knock =
        format!("spa-knock {server} open-ssh knocks there, if open-ssh is what the server lets you do");
    match key.address {
        Some(_) => knock,
        None => format!(
            "{knock}; the key names no address: if {server} is no name that leads there, add `address: …` to {}",
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
        }
    }

    #[test]
    fn a_text_is_whole_with_its_last_line_and_not_before() {
        let token = key().to_token().unwrap();
        assert!(is_whole(&token) && is_whole(&format!("{}\n", *token)));
        let (first, _) = token.split_at(40);
        assert!(!is_whole(&format!("{first}\n")), "a token that was wrapped");
        assert!(
            is_whole("ssh server\n") && is_whole("spa-knock-AF!\n"),
            "no further line makes a token of it"
        );
        let text = key().to_text();
        let mut so_far = String::new();
        let count = text.lines().count();
        for (number, line) in (1..).zip(text.lines()) {
            so_far.push_str(line);
            so_far.push('\n');
            assert_eq!(is_whole(&so_far), number == count, "line {number}");
        }
    }
}
