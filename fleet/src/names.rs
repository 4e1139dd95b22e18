//! Names of fleets and of their members.

use std::fmt;
use std::str::FromStr;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a {0} name is 1 to 32 characters of a-z, 0-9, '.', '_' and '-', and starts with a letter or a digit"
)]
pub struct InvalidFleetName(&'static str);

/// The name of a fleet: servers that share one server id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetName(String);

/// The name of one server of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(String);

macro_rules! name {
    ($name:ident, $kind:literal) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidFleetName;

            fn from_str(text: &str) -> Result<Self, InvalidFleetName> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(InvalidFleetName($kind)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(FleetName, "fleet");
name!(MemberName, "member");

/// No `/`, so that a name is one part of a key, and no space, so that it is one word of a value.
fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_key() {
        for good in ["prod", "b2", "eu-1.example_x", &"a".repeat(32)] {
            assert_eq!(good.parse::<FleetName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "a/b", "a b", ".a", "-a", "ä", &"a".repeat(33)] {
            assert_eq!(bad.parse::<MemberName>(), Err(InvalidFleetName("member")), "{bad}");
        }
    }
}
