//! The knock datagram: hint, nonce, encrypted body, tag.

use super::body::{self, BODY_MIN};
use super::{Body, Reader};
use crate::crypto::{
    AEAD_TAG, ClientKeys, DecryptionFailed, KeeperKeys, MacKey, NONCE, Nonce, RandomError, Tag, random,
};
use crate::knock::Knock;

/// Length of a hint in bytes.
pub const HINT: usize = 8;
/// The largest number of random padding bytes.
pub const PADDING_MAX: u8 = 63;
/// Length of the shortest datagram in bytes.
pub const DATAGRAM_MIN: usize = HINT + NONCE + BODY_MIN + AEAD_TAG + TAG;
/// Length of the longest datagram in bytes.
pub const DATAGRAM_MAX: usize = DATAGRAM_MIN + 63;

const TAG: usize = 32;

/// Selects a key on the wire; changes every epoch.
pub type Hint = [u8; HINT];

/// The hint of a key in one epoch.
#[must_use]
pub fn hint(key: &MacKey, epoch: u64) -> Hint {
    let [a, b, c, d, e, f, g, h, ..] = key.tag(&[&epoch.to_be_bytes()]);
    [a, b, c, d, e, f, g, h]
}

/// Why a knock could not be created.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum SealError {
    /// The system's random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The cipher failed, which never happens for so few bytes.
    #[error("the cipher failed")]
    Cipher(#[from] DecryptionFailed),
}

/// A finished knock datagram.
pub struct Datagram {
    bytes: Vec<u8>,
    nonce: Nonce,
}

impl Datagram {
    /// Encrypts and signs `knock` with a fresh nonce and a random length.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn seal(knock: &Knock, keys: &ClientKeys) -> Result<Self, SealError> {
        let [padding] = random()?;
        Ok(Self::seal_with(knock, keys, random()?, padding & PADDING_MAX)?)
    }

    /// Encrypts and signs `knock` with a given nonce, which must never have been used before, and 0 to 63 bytes of
    /// padding.
    ///
    /// # Errors
    /// If the cipher fails, which never happens for so few bytes.
    pub fn seal_with(
        knock: &Knock,
        keys: &ClientKeys,
        nonce: Nonce,
        padding: u8,
    ) -> Result<Self, DecryptionFailed> {
        let hint = hint(&keys.hint, knock.timestamp.epoch());
        let mut sealed = body::write(knock, usize::from(padding.min(PADDING_MAX)));
        keys.seal.seal(&nonce, &hint, &mut sealed)?;
        let mut bytes = Vec::with_capacity(DATAGRAM_MAX);
        bytes.extend(hint);
        bytes.extend(nonce);
        bytes.extend(sealed);
        bytes.extend(keys.sign.tag(&[&bytes]));
        Ok(Self { bytes, nonce })
    }

    /// The UDP payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The nonce, which a reply is bound to.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }
}

/// The parts of a received datagram. Its sender is not verified.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// Selects the key.
    pub hint: &'a Hint,
    /// Used once; also the knock's id.
    pub nonce: &'a Nonce,
    /// The encrypted body.
    pub sealed: &'a [u8],
    /// The bytes that the tag covers.
    pub signed: &'a [u8],
    /// The HMAC of `signed`.
    pub tag: &'a Tag,
}

impl<'a> Envelope<'a> {
    /// Splits a datagram into its parts; `None` if no knock has this length.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&bytes.len()) {
            return None;
        }
        let (signed, tag) = bytes.split_last_chunk()?;
        let mut reader = Reader::new(signed);
        Some(Self { hint: reader.array()?, nonce: reader.array()?, sealed: reader.rest(), signed, tag })
    }

    /// Decrypts the body.
    ///
    /// # Errors
    /// If it was not encrypted with this key, or is shorter than what all versions share.
    pub fn open(&self, keys: &KeeperKeys) -> Result<Body, DecryptionFailed> {
        // The captured bytes are borrowed, so decryption happens in place in a copy on the stack.
        let mut copy = [0; DATAGRAM_MAX];
        let sealed = copy.get_mut(..self.sealed.len()).ok_or(DecryptionFailed)?;
        sealed.copy_from_slice(self.sealed);
        Body::read(keys.seal.open(self.nonce, self.hint, sealed)?).ok_or(DecryptionFailed)
    }
}
