//! The options before a key in sshd's `authorized_keys`. Those that limit a knock as well are applied, those that limit
//! only the later session are ignored, and any other one makes the key unusable.

use super::expiry_time;
use spa_knock_core::crypto::ssh::PublicKeyError;
use spa_knock_core::knock::Timestamp;

/// The longest name of an option that a message repeats.
const NAME_MAX: usize = 32;

/// The limits that options set on knocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyOptions {
    /// `expiry-time`: the earliest one.
    pub(super) expires: Option<Timestamp>,
    /// `verify-required`.
    pub(super) verify: bool,
}

/// Why the options of a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionError {
    /// An option that limits the use of the key in a way that knocks do not check, or an unknown one.
    #[error("option {0} is not supported for knocks")]
    Unsupported(String),
    /// Each knock of a FIDO key needs a touch.
    #[error("option no-touch-required: a knock with a FIDO key always needs a touch")]
    NoTouch,
    /// Quotes or commas are missing, or an option has a value that it must not have, or none.
    #[error("malformed options")]
    Malformed,
    /// The value is not a time.
    #[error("option expiry-time: not a time of the form YYYYMMDD[Z] or YYYYMMDDHHMM[SS][Z]")]
    ExpiryTime,
    /// No key follows.
    #[error("{}", PublicKeyError::Text)]
    NoKey,
}

impl KeyOptions {
    /// Takes the options from the front of a line. Returns what follows.
    pub(super) fn take(line: &str) -> Result<(Self, &str), OptionError> {
        let (options, key) = split(line)?;
        let mut limits = Self::default();
        let mut rest = options;
        loop {
            let (name, value, after) = take_option(rest)?;
            limits.apply(name, value.as_deref())?;
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok((limits, key)),
                None => return Err(OptionError::Malformed),
            }
        }
    }

    fn apply(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionError> {
        match (name.to_ascii_lowercase().as_str(), value) {
            ("expiry-time", Some(value)) => {
                let time = expiry_time::parse(value).ok_or(OptionError::ExpiryTime)?;
                self.expires = Some(self.expires.map_or(time, |earlier| earlier.min(time)));
                Ok(())
            }
            ("verify-required", None) => {
                self.verify = true;
                Ok(())
            }
            ("no-touch-required", None) => Err(OptionError::NoTouch),
            (
                "restrict"
                | "pty"
                | "no-pty"
                | "user-rc"
                | "no-user-rc"
                | "agent-forwarding"
                | "no-agent-forwarding"
                | "port-forwarding"
                | "no-port-forwarding"
                | "x11-forwarding"
                | "no-x11-forwarding"
                | "no-verify-required",
                None,
            )
            | ("permitopen" | "permitlisten" | "environment" | "tunnel", Some(_)) => Ok(()),
            _ => Err(unsupported(name)),
        }
    }
}

/// Splits a line at the first space outside quotes.
fn split(line: &str) -> Result<(&str, &str), OptionError> {
    let mut is_quoted = false;
    let mut last = None;
    for (at, character) in line.char_indices() {
        match character {
            '"' if last != Some('\\') => is_quoted = !is_quoted,
            ' ' | '\t' if !is_quoted => {
                let (options, key) = line.split_at_checked(at).ok_or(OptionError::Malformed)?;
                return Ok((options, key.trim_start()));
            }
            _ => {}
        }
        last = Some(character);
    }
    Err(if is_quoted { OptionError::Malformed } else { OptionError::NoKey })
}

/// Takes one option from the front of `text`: its name, its value without quotes, and what follows.
fn take_option(text: &str) -> Result<(&str, Option<String>, &str), OptionError> {
    let end = text.find([',', '=']).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).ok_or(OptionError::Malformed)?;
    if name.is_empty() {
        return Err(OptionError::Malformed);
    }
    let Some(quoted) = rest.strip_prefix('=') else { return Ok((name, None, rest)) };
    // Only \" is an escape; any other backslash is a character of the value.
    let mut characters = quoted.strip_prefix('"').ok_or(OptionError::Malformed)?.chars();
    let mut value = String::new();
    loop {
        match characters.next().ok_or(OptionError::Malformed)? {
            '\\' if characters.as_str().starts_with('"') => value.extend(characters.next()),
            '"' => return Ok((name, Some(value), characters.as_str())),
            character => value.push(character),
        }
    }
}

/// The error for this option. A line that is not an option at all can contain anything, so it is not repeated.
fn unsupported(name: &str) -> OptionError {
    let is_name = name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if is_name { OptionError::Unsupported(name.to_owned()) } else { OptionError::Malformed }
}
