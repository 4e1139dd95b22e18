//! ChaCha20-Poly1305 (RFC 8439) under a key made anew from each nonce, so that what a library may leave in
//! memory opens one message only.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};

use super::{MacKey, Secret};

/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes that sealing adds.
pub const AEAD_TAG: usize = 16;

/// A number used once.
pub type Nonce = [u8; NONCE];

/// The bytes are not sealed under this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not sealed under this key")]
pub struct DecryptionFailed;

/// A key from which the one-time sealing keys come.
#[derive(Clone)]
pub struct SealKey(MacKey);

impl SealKey {
    /// Seals `plain` in place and appends 16 bytes.
    ///
    /// # Errors
    /// Never for messages under 64 GiB; there is no other way to fail.
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &mut Vec<u8>) -> Result<(), DecryptionFailed> {
        self.one_time(nonce)?
            .seal_in_place_append_tag(ring::aead::Nonce::assume_unique_for_key(*nonce), Aad::from(aad), plain)
            .map_err(|_| DecryptionFailed)
    }

    /// Opens `sealed` in place; returns the plain bytes.
    ///
    /// # Errors
    /// When a bit of it, of `aad` or of `nonce` differs from what was sealed, or the key does.
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
