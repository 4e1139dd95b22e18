//! HMAC-SHA256 (RFC 2104) with a key whose two key blocks are hashed once, in advance.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Secret;

/// A complete HMAC-SHA256 output.
pub type Tag = [u8; 32];

/// A key for HMAC-SHA256. It is wiped on drop and has no `Debug`. It is boxed for the same reason as [`Secret`].
#[derive(Clone)]
pub struct MacKey(Box<Hmac<Sha256>>);

impl MacKey {
    /// A key from bytes of any length (RFC 2104 pads or hashes them).
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        // HMAC accepts keys of any length, so the error cannot occur; an all-zero block is RFC 2104's empty key.
        Self(Box::new(Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))))
    }

    /// The tag of the concatenated parts.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        self.begin(parts).finalize().into_bytes().into()
    }

    /// Verifies the tag of the concatenated parts in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &Tag) -> bool {
        self.begin(parts).verify(tag.into()).is_ok()
    }

    /// The tag of the concatenated parts as a new secret.
    #[must_use]
    pub fn derive(&self, parts: &[&[u8]]) -> Secret {
        let output: Zeroizing<Tag> = Zeroizing::new(self.tag(parts));
        Secret::from_bytes(&output)
    }

    fn begin(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::clone(&self.0);
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl From<&Secret> for MacKey {
    fn from(secret: &Secret) -> Self {
        Self::new(secret.expose())
    }
}

/// The first 8 bytes of the SHA-256 of the concatenated parts: detects damage, but authenticates nothing.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> [u8; 8] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..]: Tag = hash.finalize().into();
    [a, b, c, d, e, f, g, h]
}

/// The same in hexadecimal.
#[must_use]
pub fn checksum_hex(parts: &[&[u8]]) -> String {
    checksum(parts).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HKDF-SHA256 (RFC 5869) with one block of output, which is enough for a 32-byte key:
/// `T(1) = HMAC(HMAC(salt, ikm), info || 0x01)`.
pub(super) fn hkdf(salt: &[u8], ikm: &Secret, info: &[&[u8]]) -> Secret {
    let prk = MacKey::new(salt).derive(&[ikm.expose()]);
    let mut mac = MacKey::from(&prk).begin(info);
    mac.update(&[1]);
    let output: Zeroizing<Tag> = Zeroizing::new(mac.finalize().into_bytes().into());
    Secret::from_bytes(&output)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_checksum_is_the_start_of_the_hash_of_all_parts() {
        // The example of FIPS 180-4: ba7816bf 8f01cfea …
        assert_eq!(checksum_hex(&[b"a", b"bc"]), "ba7816bf8f01cfea");
        assert_eq!(checksum(&[b"abc"]), [0xBA, 0x78, 0x16, 0xBF, 0x8F, 0x01, 0xCF, 0xEA]);
    }

    proptest! {
        #[test]
        fn tags_equal_those_of_another_implementation(key: Vec<u8>, a: Vec<u8>, b: Vec<u8>) {
            let whole = [a.as_slice(), &b].concat();
            let oracle = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), &whole);
            let tag = MacKey::new(&key).tag(&[&a, &b]);
            prop_assert_eq!(oracle.as_ref(), &tag);
            prop_assert!(MacKey::new(&key).verify(&[&whole], &tag));
        }

        #[test]
        fn derived_keys_equal_those_of_another_implementation(salt: Vec<u8>, ikm: [u8; 32], info: Vec<u8>) {
            let prk = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &salt).extract(&ikm);
            let mut oracle = [0; 32];
            prk.expand(&[&info], ring::hkdf::HKDF_SHA256).unwrap().fill(&mut oracle).unwrap();
            let derived = hkdf(&salt, &Secret::from_bytes(&ikm), &[&info]);
            prop_assert_eq!(&oracle, derived.expose());
        }
    }
}
