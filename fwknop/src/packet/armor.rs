//! The text of a packet on the wire: base64 of `Salted__`, salt and ciphertext without its constant first characters,
//! then base64 of the HMAC, with nothing in between.

use super::text::{encode, is_letter};
use super::{Digest, HmacKey};

/// Minimum length of a packet in bytes (fwknop: MIN_SPA_DATA_SIZE).
pub const WIRE_MIN: usize = 140;
/// Maximum length of a packet in bytes (fwknop: MAX_SPA_PACKET_LEN).
pub const WIRE_MAX: usize = 1500;
/// The text of every packet begins with it, because its first bytes are `Salted__`. It is not sent.
pub(crate) const PREFIX: &str = "U2FsdGVkX1";

/// A packet with a possible length and alphabet. Anyone can create one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireText<'a>(&'a str);

impl<'a> WireText<'a> {
    /// Checks length and alphabet. Costs no hash.
    ///
    /// A packet that repeats the constant prefix is not one: fwknop refuses it, so that a replay cannot differ from its
    /// original by the prefix.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        // The first character encodes four bits of `_` and two of the salt.
        let is_possible = (WIRE_MIN..=WIRE_MAX).contains(&payload.len())
            && matches!(payload.first(), Some(b'8' | b'9' | b'+' | b'/'))
            && payload.iter().copied().all(is_letter);
        is_possible.then(|| std::str::from_utf8(payload).ok().map(Self)).flatten()
    }

    /// The characters as they were sent.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.0
    }

    /// Splits the text into ciphertext and HMAC; none if it is too short for an HMAC with this digest.
    pub(crate) fn split(&self, digest: Digest) -> Option<(&'a str, &'a str)> {
        self.0.split_at_checked(self.0.len().checked_sub(digest.text_len())?)
    }

    /// The text of a packet: `sealed` is the text of the ciphertext with its constant prefix.
    pub(crate) fn join(sealed: &str, key: &HmacKey) -> String {
        let tag = key.tag(sealed);
        let stripped = sealed.strip_prefix(PREFIX).unwrap_or(sealed);
        format!("{stripped}{}", encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_text_of_the_right_length_and_alphabet_is_possible() {
        let text = |first: char, length: usize| format!("{first}{}", "A".repeat(length - 1));
        for (text, possible) in [
            (text('8', 139), false),
            (text('8', 140), true),
            (text('9', 1500), true),
            (text('+', 1501), false),
            (text('/', 200), true),
            (text('U', 200), false),
            (format!("{PREFIX}{}", text('8', 200)), false),
            (format!("{}=", text('8', 199)), false),
            (format!("{}\n", text('8', 199)), false),
            (format!("{}\0", text('8', 199)), false),
            (format!("{}-", text('8', 199)), false),
        ] {
            assert_eq!(WireText::parse(text.as_bytes()).is_some(), possible, "{text}");
        }
    }
}
