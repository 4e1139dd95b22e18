//! Names that travel in a knock or stand in a config; what they may consist of.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a valid name. The text itself is not repeated: it may come from a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidName(&'static str);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidName {}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $length:expr, not_first: $not_first:expr, $allowed:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let allowed: fn(u8) -> bool = $allowed;
                let starts_badly = $not_first.iter().any(|&bad: &char| text.starts_with(bad));
                if !$length.contains(&text.len()) || starts_badly || !text.bytes().all(allowed) {
                    return Err(InvalidName($rule));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// What is asked for, e.g. `open-ssh`: 1 to 32 bytes of `[a-z0-9_-]`.
    ActionName,
    (1..=32),
    not_first: [],
    |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'),
    "an action name is 1 to 32 characters of a-z, 0-9, '_' and '-'"
);

name!(
    /// The admin's name for a client, e.g. `laptop`: 1 to 32 bytes of `[A-Za-z0-9._-]`, no leading `.` or `-`
    /// (it names files too).
    ClientName,
    (1..=32),
    not_first: ['.', '-'],
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'),
    "a client name is 1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-', and starts with neither '.' nor '-'"
);

name!(
    /// What an action is told besides its name: 0 to 80 bytes of printable ASCII.
    Argument,
    (0..=80),
    not_first: [],
    |b| matches!(b, 0x20..=0x7E),
    "an argument is at most 80 characters of printable ASCII"
);

impl Argument {
    /// No argument.
    #[must_use]
    pub fn none() -> Self {
        Self(String::new())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

name!(
    /// The name that knocks are bound to: 1 to 64 bytes of `[a-z0-9._:-]`.
    ServerId,
    (1..=64),
    not_first: [],
    |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'-'),
    "a server id is 1 to 64 characters of a-z, 0-9, '.', '_', ':' and '-'"
);

impl ServerId {
    /// The id that a person means by `typed`: lower-cased, without one trailing dot.
    ///
    /// # Errors
    /// When what is left is not a server id.
    pub fn from_typed(typed: &str) -> Result<Self, InvalidName> {
        let lower = typed.to_ascii_lowercase();
        lower.strip_suffix('.').unwrap_or(&lower).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_server_name_becomes_its_id() {
        for (typed, id) in
            [("Bastion.Example.ORG.", "bastion.example.org"), ("fd00::7", "fd00::7"), ("a..", "a.")]
        {
            assert_eq!(ServerId::from_typed(typed).unwrap().as_str(), id);
        }
        for typed in ["", ".", "a b", "ä", &"x".repeat(65)] {
            assert!(ServerId::from_typed(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn names_outside_their_alphabet_or_length_are_refused() {
        for action in ["", "Open", "open ssh", &"x".repeat(33)] {
            assert!(action.parse::<ActionName>().is_err(), "{action}");
        }
        for client in ["", "../etc", "a/b", ".hidden", "-x"] {
            assert!(client.parse::<ClientName>().is_err(), "{client}");
        }
        for argument in ["\n", "\x7f", &"x".repeat(81)] {
            assert!(argument.parse::<Argument>().is_err(), "{argument:?}");
        }
        assert!("".parse::<Argument>().unwrap().is_empty());
    }
}
