//! `TCPFlags`: which flags a TCP packet must and must not have. A door ignores packets that do not match.

use crate::packet::TcpFlags;

/// The flags that a door requires of a TCP packet; none by default. Of the flags in the header (RFC 9293), ECE and CWR
/// are always ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlagTest {
    /// The flags that are tested.
    mask: u8,
    /// Those that must be set; the other tested flags must be clear.
    set: u8,
}

/// An unknown flag, in upper case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized flag \"{0}\"")]
pub struct UnknownFlag(pub String);

const FLAGS: [(&[u8], u8); 6] =
    [(b"FIN", 0x01), (b"SYN", 0x02), (b"RST", 0x04), (b"PSH", 0x08), (b"ACK", 0x10), (b"URG", 0x20)];

impl FlagTest {
    /// Adds the flags in `text`, such as `syn,!ack`. If a flag occurs twice, the last one takes effect. As in knockd,
    /// blanks next to a comma are not allowed.
    ///
    /// # Errors
    /// The first unknown flag.
    pub fn with(self, text: &[u8]) -> Result<Self, UnknownFlag> {
        text.split(|&byte| byte == b',').try_fold(self, |test, item| {
            let (name, wanted) = item.strip_prefix(b"!").map_or((item, true), |name| (name, false));
            let bit = FLAGS.iter().find(|(flag, _)| name.eq_ignore_ascii_case(flag)).map(|(_, bit)| *bit);
            let bit = bit.ok_or_else(|| {
                UnknownFlag(String::from_utf8_lossy(&item.to_ascii_uppercase()).into_owned())
            })?;
            let set = if wanted { test.set | bit } else { test.set & !bit };
            Ok(Self { mask: test.mask | bit, set })
        })
    }

    /// Whether a packet with these flags matches.
    #[must_use]
    pub const fn passes(self, flags: TcpFlags) -> bool {
        flags.byte() & self.mask == self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    #[test]
    fn each_flag_is_required_forbidden_or_ignored() {
        for (text, passing, failing) in [
            ("syn", [SYN, SYN | ACK], [0, ACK]),
            ("SYN,!Ack", [SYN, SYN | 0xC0], [SYN | ACK, 0]),
            ("!syn,!fin", [0, ACK], [SYN, 0x01]),
            ("syn,!syn", [0, ACK], [SYN, SYN | ACK]),
            ("fin,psh,urg", [0x29, 0x2B], [0x09, 0]),
        ] {
            let test = FlagTest::default().with(text.as_bytes()).unwrap();
            assert!(passing.iter().all(|&flags| test.passes(TcpFlags::of(flags))), "{text}");
            assert!(!failing.iter().any(|&flags| test.passes(TcpFlags::of(flags))), "{text}");
        }
        assert!((0..=255).all(|flags| FlagTest::default().passes(TcpFlags::of(flags))));
    }

    #[test]
    fn an_unknown_flag_is_reported_in_upper_case() {
        for (text, item) in [("syn,ack!", "ACK!"), ("syn, ack", " ACK"), ("", ""), ("ece", "ECE"), ("!", "!")]
        {
            assert_eq!(FlagTest::default().with(text.as_bytes()), Err(UnknownFlag(item.to_owned())));
        }
    }
}
