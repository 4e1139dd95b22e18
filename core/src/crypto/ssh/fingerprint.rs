//! The fingerprint of a public key, as OpenSSH prints it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};

const NAME: &str = "SHA256:";

/// The SHA-256 of a public key's blob. `Display` prints `SHA256:` and 43 base64 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshFingerprint([u8; 32]);

/// Error: the text is not a fingerprint of OpenSSH's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the fingerprint of an SSH key: SHA256: and 43 base64 characters")]
pub struct InvalidSshFingerprint;

impl SshFingerprint {
    /// The fingerprint of a public key's blob.
    #[must_use]
    pub fn of(blob: &[u8]) -> Self {
        Self(Sha256::digest(blob).into())
    }

    /// A fingerprint from these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The fingerprint as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for SshFingerprint {
    type Err = InvalidSshFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidSshFingerprint> {
        let text = text.strip_prefix(NAME).ok_or(InvalidSshFingerprint)?;
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| InvalidSshFingerprint)?;
        bytes.try_into().map(Self).map_err(|_| InvalidSshFingerprint)
    }
}

impl fmt::Display for SshFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SshFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_survives_writing_and_reading_and_other_texts_are_refused() {
        let fingerprint = SshFingerprint::of(b"blob");
        let text = fingerprint.to_string();
        assert_eq!((text.len(), text.parse()), (50, Ok(fingerprint)));
        assert_eq!(format!("{fingerprint:?}"), text, "the same in messages of tests");
        let cases = ["", "SHA256:", &text[7..], &format!("{text}="), &text[..49], &format!("{text}AAAA")];
        for text in cases {
            assert_eq!(text.parse::<SshFingerprint>(), Err(InvalidSshFingerprint), "{text}");
        }
    }
}
