//! The digests that fwknop knows. A packet contains one of its own content, and an HMAC with one.

use std::fmt;
use std::str::FromStr;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use sha3::{Sha3_256, Sha3_512};

use super::text::encode;

/// A digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// MD5 (RFC 1321).
    Md5,
    /// SHA-1 (FIPS 180-4).
    Sha1,
    /// SHA-256 (FIPS 180-4), fwknop's default.
    Sha256,
    /// SHA-384 (FIPS 180-4).
    Sha384,
    /// SHA-512 (FIPS 180-4).
    Sha512,
    /// SHA3-256 (FIPS 202).
    Sha3_256,
    /// SHA3-512 (FIPS 202).
    Sha3_512,
}

/// The name of no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of MD5, SHA1, SHA256, SHA384, SHA512, SHA3_256, SHA3_512")]
pub struct UnknownDigest;

impl Digest {
    /// All digests.
    pub const ALL: [Self; 7] =
        [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512, Self::Sha3_256, Self::Sha3_512];

    /// Length of the output as unpadded base64, in characters.
    #[must_use]
    pub const fn text_len(self) -> usize {
        match self {
            Self::Md5 => 22,
            Self::Sha1 => 27,
            Self::Sha256 | Self::Sha3_256 => 43,
            Self::Sha384 => 64,
            Self::Sha512 | Self::Sha3_512 => 86,
        }
    }

    /// The name in fwknop's config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
            Self::Sha3_256 => "SHA3_256",
            Self::Sha3_512 => "SHA3_512",
        }
    }

    /// The digest of a text, as unpadded base64.
    pub(crate) fn text_of(self, text: &str) -> String {
        match self {
            Self::Md5 => encode(Md5::digest(text)),
            Self::Sha1 => encode(Sha1::digest(text)),
            Self::Sha256 => encode(Sha256::digest(text)),
            Self::Sha384 => encode(Sha384::digest(text)),
            Self::Sha512 => encode(Sha512::digest(text)),
            Self::Sha3_256 => encode(Sha3_256::digest(text)),
            Self::Sha3_512 => encode(Sha3_512::digest(text)),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In any case of letters, as fwknop reads it; `SHA3-256` is accepted, too.
impl FromStr for Digest {
    type Err = UnknownDigest;

    fn from_str(text: &str) -> Result<Self, UnknownDigest> {
        let text = text.replace('-', "_");
        Self::ALL.into_iter().find(|digest| digest.name().eq_ignore_ascii_case(&text)).ok_or(UnknownDigest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_each_digest_has_its_length() {
        for digest in Digest::ALL {
            assert_eq!(digest.text_of("").len(), digest.text_len(), "{digest}");
            assert_eq!(digest.name().to_lowercase().parse(), Ok(digest));
        }
        assert_eq!("sha3-512".parse(), Ok(Digest::Sha3_512));
        assert_eq!("SHA224".parse::<Digest>(), Err(UnknownDigest));
    }

    #[test]
    fn the_digest_of_the_empty_text_is_the_published_one() {
        // RFC 1321, section A.5.
        assert_eq!(Digest::Md5.text_of(""), "1B2M2Y8AsgTpgAmY7PhCfg");
        // FIPS 202: a7ffc6f8bf1ed766 51c14756a061d662 f580ff4de43b49fa 82d80a4b80f8434a.
        assert_eq!(Digest::Sha3_256.text_of(""), "p//G+L8e12ZRwUdWoGHWYvWA/03kO0n6gtgKS4D4Q0o");
    }
}
