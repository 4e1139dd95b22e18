//! The text of a packet on the wire: base64 of `Salted__`, salt and ciphertext without its constant first characters,
//! then base64 of the HMAC, with nothing in between.

use sha2::{Digest as _, Sha256};

use super::text::{decode, encode, is_letter};
use super::{Digest, HmacKey};

/// Minimum length of a packet in bytes (fwknop: MIN_SPA_DATA_SIZE).
pub const WIRE_MIN: usize = 140;
/// Maximum length of a packet in bytes: 399 characters of ciphertext with the constant prefix, and an HMAC with SHA-512.
/// fwknop receives up to 1500 bytes, but takes longer ciphertexts for those of GnuPG.
pub const WIRE_MAX: usize = 475;
/// Length of a cipher block, and of the header with the salt, in bytes.
const BLOCK: usize = 16;
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

    /// Identifies the packet: two packets with the same identity are one packet, sent twice. A packet with an HMAC has only
    /// one text.
    #[must_use]
    pub fn identity(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// Whether the length is that of whole cipher blocks and an HMAC with this digest. Costs no hash.
    #[must_use]
    pub fn fits(&self, digest: Digest) -> bool {
        self.split(digest).is_some()
    }

    /// Splits the text into ciphertext and HMAC; none if it does not have the length of whole cipher blocks and an HMAC with
    /// this digest. Costs no hash.
    pub(crate) fn split(&self, digest: Digest) -> Option<(&'a str, &'a str)> {
        let (sealed, tag) = self.0.split_at_checked(self.0.len().checked_sub(digest.text_len())?)?;
        let bytes = decoded_len(sealed.len().checked_add(PREFIX.len())?)?;
        // A block of header and salt, and at least one of ciphertext.
        (bytes.is_multiple_of(BLOCK) && bytes > BLOCK).then_some((sealed, tag))
    }

    /// The text of a packet: `sealed` is the text of the ciphertext with its constant prefix.
    pub(crate) fn join(sealed: &str, key: &HmacKey) -> String {
        let tag = key.tag(sealed);
        let stripped = sealed.strip_prefix(PREFIX).unwrap_or(sealed);
        format!("{stripped}{}", encode(tag))
    }
}

/// The identity of a packet in a `digest.cache` of fwknopd: the same hash, as text. None for other text.
#[must_use]
pub fn identity_in_digest_cache(digest: &str) -> Option<[u8; 32]> {
    decode(digest)?.try_into().ok()
}

/// How many bytes unpadded base64 of this length contains; none if no bytes have that length.
fn decoded_len(letters: usize) -> Option<usize> {
    let (whole, rest) = (letters / 4, letters % 4);
    whole.checked_mul(3)?.checked_add(match rest {
        0 => 0,
        2 => 1,
        3 => 2,
        _ => return None,
    })
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
            (text('9', 475), true),
            (text('+', 476), false),
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
