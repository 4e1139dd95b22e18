//! sshd's `authorized_keys` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"): which of its keys can sign knocks, and why the others
//! cannot. A line that sshd accepts with a limit which knocks do not check is skipped, never used without the limit.

use std::fmt;

use super::key_options::{KeyOptions, OptionError};
use spa_knock_core::auth::Touch;
use spa_knock_core::crypto::ssh::{PublicKey, PublicKeyError};
use spa_knock_core::knock::Timestamp;

/// The keys of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AuthorizedKeys {
    /// The keys that can sign knocks, in the order of their lines.
    pub(super) usable: Vec<AuthorizedKey>,
    /// All other lines, except empty ones and comments.
    pub(super) skipped: Vec<SkippedLine>,
}

/// A key that can sign knocks, with the limits of its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthorizedKey {
    /// The number of its line, from 1.
    pub(super) line: usize,
    pub(super) key: PublicKey,
    pub(super) expires: Option<Timestamp>,
    pub(super) touch: Touch,
}

/// A line that is not used. `Display` prints its number and the reason, but nothing that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SkippedLine {
    /// Its number, from 1.
    pub(super) line: usize,
    pub(super) reason: SkipReason,
}

/// Why a line is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SkipReason {
    /// Its key cannot sign knocks.
    #[error("{0}")]
    Key(#[from] PublicKeyError),
    /// It has an option that knocks do not check.
    #[error("{0}")]
    Option(#[from] OptionError),
    /// `verify-required` with a key that is not in a FIDO device.
    #[error("option verify-required needs a key in a FIDO device")]
    VerifyWithoutDevice,
    /// `expiry-time` has passed.
    #[error("the key has expired")]
    Expired,
    /// The same key as in an earlier line, whose limits sshd applies first.
    #[error("the same key as in line {0}")]
    Duplicate(usize),
}

impl AuthorizedKeys {
    /// Reads the text of a file at the time `now`.
    pub(super) fn parse(text: &str, now: Timestamp) -> Self {
        let mut keys = Self::default();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim_matches([' ', '\t', '\r']);
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            match keys.parse_line(line, content, now) {
                Ok(key) => keys.usable.push(key),
                Err(reason) => keys.skipped.push(SkippedLine { line, reason }),
            }
        }
        keys
    }

    fn parse_line(&self, line: usize, content: &str, now: Timestamp) -> Result<AuthorizedKey, SkipReason> {
        let (options, key) = if starts_with_algorithm(content) {
            (KeyOptions::default(), content)
        } else {
            KeyOptions::take(content)?
        };
        let key: PublicKey = key.parse()?;
        if options.verify && !key.kind().is_fido() {
            return Err(SkipReason::VerifyWithoutDevice);
        }
        if options.expires.is_some_and(|time| time <= now) {
            return Err(SkipReason::Expired);
        }
        if let Some(first) = self.usable.iter().find(|usable| usable.key == key) {
            return Err(SkipReason::Duplicate(first.line));
        }
        let touch = if options.verify { Touch::Pin } else { Touch::Present };
        Ok(AuthorizedKey { line, key, expires: options.expires, touch })
    }
}

/// Whether a line has no options. The names of all algorithms begin with these words, and no option does.
fn starts_with_algorithm(content: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-", "rsa-", "webauthn-"].iter().any(|begin| content.starts_with(begin))
}

impl fmt::Display for SkippedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

#[cfg(test)]
mod tests;
