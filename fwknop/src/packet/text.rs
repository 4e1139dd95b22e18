//! base64 as fwknop writes it: the standard alphabet (RFC 4648, section 4) without padding.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

/// Unused bits of the last character must be zero, and there is no padding: each value has exactly one text.
const ENGINE: GeneralPurpose = GeneralPurpose::new(&STANDARD, NO_PAD);

/// Whether a byte belongs to the alphabet.
pub(super) const fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    ENGINE.encode(bytes)
}

/// None if the text is not the one that [`encode`] creates.
pub(super) fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    ENGINE.decode(text).ok()
}

/// Decodes printable ASCII.
pub(super) fn decode_printable(text: &str) -> Option<String> {
    let text = String::from_utf8(decode(text)?).ok()?;
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')).then_some(text)
}

/// Parses decimal digits only: no sign, no space. `digits_max` limits how many there are.
pub(super) fn decimal<T: std::str::FromStr>(text: &str, digits_max: usize) -> Option<T> {
    let is_number = !text.is_empty() && text.len() <= digits_max && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
