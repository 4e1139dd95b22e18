//! `import`: a key that a server's admin has handed over, as a token or as a key file's text, becomes a key file.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::{Cause, Failure};
use super::keys::named;
use super::report::Report;
use crate::crypto::{Holder, KeyFile, TokenError};
use crate::os::files::{self, Mode};

/// Keeps the key that `token` is, or that standard input holds where it is `-`.
pub(super) fn import(token: OsString) -> Result<(), Failure> {
    let key = read(&text_of(token)?)?;
    let Holder::Pair { server, secret } = &key.holder else {
        return Err(Failure::new(Cause::Files, "key: is for all servers (kind: root)")
            .hint("put its text into ~/.knock.key, mode 0600"));
    };
    let path = named(server.as_str())
        .ok_or_else(|| Failure::new(Cause::Files, "no home folder to keep the key in: $HOME is not set"))?;
    if let Some(folder) = path.parent() {
        files::create_folder(folder, Mode::Private)?;
    }
    files::create_new(&path, Mode::Private, key.to_text().as_bytes()).map_err(|error| {
        let there = files::exists(&path);
        let failure = Failure::from(error);
        if there { failure.hint("if the new key is to take its place, remove it first") } else { failure }
    })?;
    let fingerprint = secret.keys(server).fingerprint;
    Report::PLAIN.note(&format!(
        "key file {}: written (fingerprint {fingerprint})\nhint: {}",
        path.display(),
        next(&key, server.as_str(), &path)
    ));
    Ok(())
}

fn text_of(token: OsString) -> Result<Zeroizing<String>, Failure> {
    if token != "-" {
        let text = token.into_string().map_err(|_| refused(TokenError::Prefix))?;
        return Ok(Zeroizing::new(text));
    }
    if io::stdin().is_terminal() {
        Report::PLAIN.note("paste the token or the key file's text, then press Enter and Ctrl-D");
    }
    Ok(files::read_secret_from_stdin()?)
}

fn read(text: &str) -> Result<KeyFile, Failure> {
    // What is neither is more likely a token that lost its beginning: a key file has a colon in every line.
    if !text.contains(':') {
        return KeyFile::from_token(text).map_err(refused);
    }
    KeyFile::parse(text).map_err(|error| Failure::new(Cause::Files, format!("key file's text: {error}")))
}

fn refused(error: TokenError) -> Failure {
    let failure = Failure::new(Cause::Files, format!("token: {error}"));
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
