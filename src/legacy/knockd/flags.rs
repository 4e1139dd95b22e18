//! `TCPFlags`: which flags a TCP packet must have and which it must not. A packet that fails is not there for the door.

use crate::packet::TcpFlags;

/// What a door asks of the flags of a TCP packet; nothing by default. Of those in the header
/// (RFC 9293) ECE and CWR never count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlagTest {
    /// The flags that are looked at.
    asked: u8,
    /// Those of them that must be set.
    set: u8,
}

/// A word that is no flag, in upper case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized flag \"{0}\"")]
pub struct UnknownFlag(pub String);

const FLAGS: [(&[u8], u8); 6] =
    [(b"FIN", 0x01), (b"SYN", 0x02), (b"RST", 0x04), (b"PSH", 0x08), (b"ACK", 0x10), (b"URG", 0x20)];

impl FlagTest {
    /// This test and what `text` asks besides, e.g. `syn,!ack`; of two words for one flag the later counts. As in
    /// knockd, no blank may stand beside a comma.
    ///
    /// # Errors
    /// At the first word that is no flag.
    pub fn with(self, text: &[u8]) -> Result<Self, UnknownFlag> {
        text.split(|&byte| byte == b',').try_fold(self, |test, word| {
            let (name, wanted) = word.strip_prefix(b"!").map_or((word, true), |name| (name, false));
            let bit = FLAGS.iter().find(|(flag, _)| name.eq_ignore_ascii_case(flag)).map(|(_, bit)| *bit);
            let bit = bit.ok_or_else(|| {
                UnknownFlag(String::from_utf8_lossy(&word.to_ascii_uppercase()).into_owned())
            })?;
            let set = if wanted { test.set | bit } else { test.set & !bit };
            Ok(Self { asked: test.asked | bit, set })
        })
    }

    /// Whether a packet with these flags passes.
    #[must_use]
    pub const fn passes(self, flags: TcpFlags) -> bool {
        flags.byte() & self.asked == self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    #[test]
    fn flags_must_be_set_or_not_set_or_do_not_matter() {
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
    fn a_word_that_is_no_flag_is_told_in_upper_case() {
        for (text, word) in [("syn,ack!", "ACK!"), ("syn, ack", " ACK"), ("", ""), ("ece", "ECE"), ("!", "!")]
        {
            assert_eq!(FlagTest::default().with(text.as_bytes()), Err(UnknownFlag(word.to_owned())));
        }
    }
}
