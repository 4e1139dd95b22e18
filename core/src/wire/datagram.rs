//! The knock datagram: hint, nonce, sealed body, tag.

use super::body::{self, BODY_MIN};
use super::{Body, Reader};
use crate::crypto::{
    AEAD_TAG, ClientKeys, DecryptionFailed, KeeperKeys, MacKey, NONCE, Nonce, RandomError, Tag, random,
};
use crate::knock::Knock;

/// Bytes of a hint.
pub const HINT: usize = 8;
/// The largest number of random padding bytes.
pub const PADDING_MAX: u8 = 63;
/// The shortest datagram.
pub const DATAGRAM_MIN: usize = HINT + NONCE + BODY_MIN + AEAD_TAG + TAG;
/// The longest datagram.
pub const DATAGRAM_MAX: usize = DATAGRAM_MIN + 63;

const TAG: usize = 32;

/// What names a key on the wire for a minute.
pub type Hint = [u8; HINT];

/// The hint of a key in one epoch (minute).
#[must_use]
pub fn hint(key: &MacKey, epoch: u64) -> Hint {
    let [a, b, c, d, e, f, g, h, ..] = key.tag(&[&epoch.to_be_bytes()]);
    [a, b, c, d, e, f, g, h]
}

/// No knock could be made.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum SealError {
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The cipher refused, which it never does for so few bytes.
    #[error("the cipher failed")]
    Cipher(#[from] DecryptionFailed),
}

/// A finished knock.
pub struct Datagram {
    bytes: Vec<u8>,
    nonce: Nonce,
}

impl Datagram {
    /// Seals and signs `knock` with a fresh nonce and a random length.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn seal(knock: &Knock, keys: &ClientKeys) -> Result<Self, SealError> {
        let [padding] = random()?;
        Ok(Self::seal_with(knock, keys, random()?, padding & PADDING_MAX)?)
    }

    /// Seals and signs `knock` with a given nonce, which must never have been used, and 0 to 63 bytes of padding.
    ///
    /// # Errors
    /// When the cipher fails, which it never does for so few bytes.
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

    /// What goes into the UDP payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the reply must name.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }
}

/// A received datagram, taken apart. Says nothing about who made it.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// Names the key.
    pub hint: &'a Hint,
    /// Used once; also the knock's id.
    pub nonce: &'a Nonce,
    /// The body, sealed.
    pub sealed: &'a [u8],
    /// All that the tag covers.
    pub signed: &'a [u8],
    /// HMAC of it.
    pub tag: &'a Tag,
}

impl<'a> Envelope<'a> {
    /// Takes a datagram apart; nothing when its length is not one that knocks have.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&bytes.len()) {
            return None;
        }
        let (signed, tag) = bytes.split_last_chunk()?;
        let mut reader = Reader::new(signed);
        Some(Self { hint: reader.array()?, nonce: reader.array()?, sealed: reader.rest(), signed, tag })
    }

    /// Opens the body.
    ///
    /// # Errors
    /// When it was not sealed under this key, or has not even what all versions share.
    pub fn open(&self, keys: &KeeperKeys) -> Result<Body, DecryptionFailed> {
        // The capture's bytes are borrowed; opening happens in place, in a copy on the stack.
        let mut copy = [0; DATAGRAM_MAX];
        let sealed = copy.get_mut(..self.sealed.len()).ok_or(DecryptionFailed)?;
        sealed.copy_from_slice(self.sealed);
        Body::read(keys.seal.open(self.nonce, self.hint, sealed)?).ok_or(DecryptionFailed)
    }
}
