//! Names that appear in knocks and configs, and the characters they may contain.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a valid name. The text itself is not repeated, because it may come from an unauthenticated sender.
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
    /// The name of an action, such as `open-ssh`: 1 to 32 bytes of `[a-z0-9_-]`.
    ActionName,
    (1..=32),
    not_first: [],
    |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'),
    "an action name is 1 to 32 characters of a-z, 0-9, '_' and '-'"
);

name!(
    /// The administrator's name for a client, such as `laptop`: 1 to 32 bytes of `[A-Za-z0-9._-]`, without a leading
    /// `.` or `-`, because it is also used in file names.
    ClientName,
    (1..=32),
    not_first: ['.', '-'],
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'),
    "a client name is 1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-', and does not start with '.' or '-'"
);

name!(
    /// The client's text for an action: 0 to 80 bytes of printable ASCII.
    Argument,
    (0..=80),
    not_first: [],
    |b| matches!(b, 0x20..=0x7E),
    "an argument is at most 80 characters of printable ASCII"
);

impl Argument {
    /// The empty argument.
    #[must_use]
    pub fn none() -> Self {
        Self(String::new())
    }

    /// Whether the argument is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

name!(
    /// The configured name that knocks are bound to: 1 to 64 bytes of `[a-z0-9._:-]`.
    ServerId,
    (1..=64),
    not_first: [],
    |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'-'),
    "a server id is 1 to 64 characters of a-z, 0-9, '.', '_', ':' and '-'"
);

impl ServerId {
    /// The id for a server name as a person types it: lower case, without one trailing dot.
    ///
    /// # Errors
    /// If the rest is not a valid server id.
    pub fn from_typed(typed: &str) -> Result<Self, InvalidName> {
        let lower = typed.to_ascii_lowercase();
        lower.strip_suffix('.').unwrap_or(&lower).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_server_name_becomes_a_server_id() {
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
    fn names_with_invalid_characters_or_lengths_are_refused() {
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

    #[test]
    fn an_invalid_name_is_refused_with_the_rule_and_only_an_empty_argument_is_empty() {
        let rule = "an action name is 1 to 32 characters of a-z, 0-9, '_' and '-'";
        assert_eq!("Open".parse::<ActionName>().unwrap_err().to_string(), rule);
        for text in ["", " ", "tcp/8443"] {
            assert_eq!(text.parse::<Argument>().unwrap().is_empty(), text.is_empty(), "'{text}'");
        }
        assert!(Argument::none().is_empty());
    }
}
