//! A host name from a name service that is safe to write to a log.

use std::fmt;
use std::str::FromStr;

/// A host name: 1 to 253 bytes (RFC 1035, 2.3.4) of `[A-Za-z0-9._-]`, with a last label that is not all digits.
///
/// The owner of an address chooses its name. Therefore a name can neither end a line nor begin another field, and does
/// not look like an address (no top-level domain is a number: RFC 1123, 2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// The text is not a host name. Does not contain the text, which is untrusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidHostName;

const LENGTH_MAX: usize = 253;

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let last = text.rsplit('.').next().unwrap_or_default();
        let fits = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if !fits || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidHostName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InvalidHostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a host name")
    }
}

impl std::error::Error for InvalidHostName {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_name_cannot_be_mistaken_for_another_field_or_an_address() {
        let (longest, too_long) = ("x".repeat(253), "x".repeat(254));
        for good in
            ["host.example", "HOST", "a_b-c.1x", "1.0.0.10.in-addr.arpa", "xn--e1afmkfd.example", &longest]
        {
            assert_eq!(good.parse::<HostName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "a b",
            "a\nb",
            "a)",
            "ä",
            "a\u{202e}",
            "\u{1b}[2J",
            "10.77.0.9",
            "a.",
            "7",
            "fd77::1",
            &too_long,
        ] {
            assert_eq!(bad.parse::<HostName>(), Err(InvalidHostName), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_unchanged_and_harmless(text in any::<String>()) {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert_eq!(name.to_string(), text.as_str());
                prop_assert!(text.parse::<std::net::IpAddr>().is_err());
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b":()[]".contains(&byte)));
            }
        }
    }
}
