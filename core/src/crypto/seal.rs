//! ChaCha20-Poly1305 (RFC 8439) with a key derived separately for each nonce, so that key material that a library may
//! leave in memory decrypts only one message.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};

use super::{MacKey, Secret};

/// Length of a nonce in bytes.
pub const NONCE: usize = 12;
/// Number of bytes that encryption appends.
pub const AEAD_TAG: usize = 16;

/// A number used once.
pub type Nonce = [u8; NONCE];

/// The bytes were not encrypted with this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not encrypted with this key")]
pub struct DecryptionFailed;

/// The key from which the one-time encryption keys are derived.
#[derive(Clone)]
pub struct SealKey(MacKey);

impl SealKey {
    /// Encrypts `plain` in place and appends 16 bytes.
    ///
    /// # Errors
    /// Never for messages under 64 GiB; no other failure is possible.
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &mut Vec<u8>) -> Result<(), DecryptionFailed> {
        self.one_time(nonce)?
            .seal_in_place_append_tag(ring::aead::Nonce::assume_unique_for_key(*nonce), Aad::from(aad), plain)
            .map_err(|_| DecryptionFailed)
    }

    /// Decrypts `sealed` in place and returns the plain bytes.
    ///
    /// # Errors
    /// If the key, `nonce`, `aad` or `sealed` differs in any bit from what was used for encryption.
    pub fn open<'a>(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], DecryptionFailed> {
        self.one_time(nonce)?
            .open_in_place(ring::aead::Nonce::assume_unique_for_key(*nonce), Aad::from(aad), sealed)
            .map(|plain| &*plain)
            .map_err(|_| DecryptionFailed)
    }

    fn one_time(&self, nonce: &Nonce) -> Result<LessSafeKey, DecryptionFailed> {
        let key = self.0.derive(&[nonce]);
        UnboundKey::new(&CHACHA20_POLY1305, key.expose()).map(LessSafeKey::new).map_err(|_| DecryptionFailed)
    }
}

impl From<&Secret> for SealKey {
    fn from(secret: &Secret) -> Self {
        Self(MacKey::from(secret))
    }
}
