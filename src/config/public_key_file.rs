//! The text of a public key file, as `ssh-keygen` writes it: one key. The errors name what the text is instead, and what to
//! do.

use std::fmt;

use spa_knock_core::crypto::ssh::{PublicKey, PublicKeyError};

/// Part of the first line of private keys of every format.
const PRIVATE: &str = "PRIVATE KEY-----";
/// What to do if a user has no key that can sign knocks.
pub(crate) const MAKE_A_KEY: &str =
    "make a key that can sign knocks: ssh-keygen -t ed25519, or ssh-keygen -t ed25519-sk";
/// What the names of SSH's key algorithms begin with.
const ALGORITHMS: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];

/// Why a text is not that of a public key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublicKeyFileError {
    /// A private key.
    Private,
    /// A line of `authorized_keys` with options in front of the key.
    Options,
    /// The format of RFC 4716, which other SSH programs write.
    Rfc4716,
    /// A PEM file.
    Pem,
    /// More than one key.
    Several,
    /// No key of SSH at all.
    Other,
    /// A key that is damaged, or cannot sign knocks.
    Key(PublicKeyError),
}

impl fmt::Display for PublicKeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "is a private key, which must stay with its owner",
            Self::Options => "is a line of authorized_keys: options precede the key",
            Self::Rfc4716 => "is in the format of RFC 4716, not in OpenSSH's",
            Self::Pem => "is in the format PEM, not in OpenSSH's",
            Self::Several => "has more than one key",
            Self::Other => "expected a public key such as ssh-ed25519 AAAA…",
            Self::Key(error) => return error.fmt(f),
        })
    }
}

impl PublicKeyFileError {
    /// What to do.
    pub(crate) const fn hint(self) -> &'static str {
        match self {
            Self::Private => {
                "use its public key: the file that ends with .pub, or the output of ssh-keygen -y"
            }
            Self::Options => {
                "remove the options: the line must start with the kind of the key, e.g. ssh-ed25519"
            }
            Self::Rfc4716 => "convert it: ssh-keygen -i -f FILE > FILE.pub",
            Self::Pem => "convert it: ssh-keygen -i -m PKCS8 -f FILE > FILE.pub",
            Self::Several => "pass one key",
            Self::Other => "use a public key file, as ssh-keygen writes it: FILE.pub",
            Self::Key(PublicKeyError::Kind | PublicKeyError::Curve | PublicKeyError::Application) => {
                MAKE_A_KEY
            }
            Self::Key(_) => "copy the whole key again, as one line",
        }
    }
}

/// Reads the only key in the text of a public key file.
pub(crate) fn read(text: &str) -> Result<PublicKey, PublicKeyFileError> {
    if is_private(text) {
        return Err(PublicKeyFileError::Private);
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next().unwrap_or_default();
    let key = line.parse().map_err(|error| cause(line, error))?;
    if lines.next().is_some() { Err(PublicKeyFileError::Several) } else { Ok(key) }
}

/// Whether a text is a private key.
pub(crate) fn is_private(text: &str) -> bool {
    text.contains(PRIVATE)
}

/// Whether a text begins as a public key does.
pub(crate) fn is_key(text: &str) -> bool {
    ALGORITHMS.iter().any(|algorithm| text.trim_start().starts_with(algorithm))
}

fn cause(line: &str, error: PublicKeyError) -> PublicKeyFileError {
    match line {
        _ if line.contains("BEGIN SSH2 PUBLIC KEY") => PublicKeyFileError::Rfc4716,
        _ if line.starts_with("-----BEGIN PUBLIC KEY") => PublicKeyFileError::Pem,
        _ if is_key(line) => PublicKeyFileError::Key(error),
        // Options can contain spaces, in quotes.
        _ if line.split_ascii_whitespace().any(is_key) => PublicKeyFileError::Options,
        _ => PublicKeyFileError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn the_only_key_is_read_without_comments() {
        let key: PublicKey = KEY.parse().unwrap();
        for text in [KEY.to_owned(), format!("# mine\n\n  {KEY} user@host\n"), format!("{KEY}\r\n")] {
            assert_eq!(read(&text), Ok(key.clone()), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_public_key_file_is_recognized_and_the_hint_fits() {
        let cut = KEY.get(..60).unwrap();
        for (text, reason, hint) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "is a private key", "ends with .pub"),
            (&format!("restrict {KEY} a"), "a line of authorized_keys", "remove the options"),
            (&format!("command=\"a b\",no-pty {KEY}"), "a line of authorized_keys", "remove the options"),
            ("---- BEGIN SSH2 PUBLIC KEY ----\nComment: \"x\"\nAAAA\n", "RFC 4716", "ssh-keygen -i -f"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n", "PEM", "-m PKCS8"),
            (&format!("{KEY}\n{KEY}\n"), "more than one key", "pass one key"),
            (cut, "damaged", "copy the whole key again"),
            (&cut[..59], "expected a public key", "copy the whole key again"),
            ("ssh-ed25519", "expected a public key", "copy the whole key again"),
            ("ssh-rsa AAAAB3NzaC1yc2E=", "cannot sign knocks", "make a key"),
            ("ecdsa-sha2-nistp384 AAAA", "cannot sign knocks", "make a key"),
            ("root:x:0:0:root:/root:/bin/bash\n", "expected a public key", "use a public key file"),
            ("gnats:x:41:41:Gnats Bug:/:/x\n", "expected a public key", "use a public key file"),
            ("", "expected a public key", "use a public key file"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
            assert!(error.hint().contains(hint), "{text}: {}", error.hint());
        }
    }
}
