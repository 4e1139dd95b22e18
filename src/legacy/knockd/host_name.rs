//! The name that a name service has for an address, as far as it may stand in a log.

use std::fmt;
use std::str::FromStr;

/// A host name: 1 to 253 bytes (RFC 1035, 2.3.4) of `[A-Za-z0-9._-]`, the last label not of digits alone.
///
/// Whoever owns an address chooses its name. So it can neither end a line nor begin another field, and does not look
/// like the address of somebody else (no domain at the top is a number: RFC 1123, 2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// A text is no host name. It is not repeated: a stranger may have written it.
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
        f.write_str("no host name")
    }
}

impl std::error::Error for InvalidHostName {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_name_has_no_byte_and_no_end_that_could_mislead_a_reader_of_the_log() {
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
        fn what_is_taken_is_the_same_word_as_before(text in any::<String>()) {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert_eq!(name.to_string(), text.as_str());
                prop_assert!(text.parse::<std::net::IpAddr>().is_err());
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b":()[]".contains(&byte)));
            }
        }
    }
}
