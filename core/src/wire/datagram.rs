//! The knock datagram: hint, nonce, encrypted body, tag.

use super::body::{self, BODY_MIN};
use super::{Body, Reader, SignedBody};
use crate::crypto::ssh::BadSignature;
use crate::crypto::{
    AEAD_TAG, ClientKeys, DecryptionFailed, KeeperKeys, MacKey, NONCE, Nonce, RandomError, Tag, random,
};
use crate::knock::{Knock, ProtocolVersion};

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
    /// The keys are of the other version: those of version 2 make no knock without a signature.
    #[error("the key is for knocks of protocol version {}", .0.number())]
    Version(ProtocolVersion),
    /// The SSH key did not make the signature.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// A finished knock datagram.
#[derive(Clone)]
pub struct Datagram {
    bytes: Vec<u8>,
    nonce: Nonce,
}

impl Datagram {
    /// Encrypts and signs a knock of version 1 with a fresh nonce and a random length.
    ///
    /// # Errors
    /// If the system's random number generator fails, or the keys are of another version.
    pub fn seal(knock: &Knock, keys: &ClientKeys) -> Result<Self, SealError> {
        let [padding] = random()?;
        Self::seal_with(knock, keys, random()?, padding & PADDING_MAX)
    }

    /// Encrypts and signs a knock of version 1 with a given nonce, which must never have been used before, and 0 to 63 bytes of
    /// padding.
    ///
    /// # Errors
    /// If the keys are of another version, or the cipher fails, which never happens for so few bytes.
    pub fn seal_with(knock: &Knock, keys: &ClientKeys, nonce: Nonce, padding: u8) -> Result<Self, SealError> {
        if keys.message.is_some() {
            return Err(SealError::Version(ProtocolVersion::V2));
        }
        let hint = hint(&keys.hint, knock.timestamp.epoch());
        let body = body::write(knock, usize::from(padding.min(PADDING_MAX)));
        Ok(Self::enclose(body, hint, nonce, keys)?)
    }

    /// Encrypts a body and adds hint, nonce and tag.
    pub(super) fn enclose(
        body: Vec<u8>,
        hint: Hint,
        nonce: Nonce,
        keys: &ClientKeys,
    ) -> Result<Self, DecryptionFailed> {
        let mut sealed = body;
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

    /// Decrypts the body of a knock of version 1.
    ///
    /// # Errors
    /// If it was not encrypted with this key, or is shorter than what all versions share.
    pub fn open(&self, keys: &KeeperKeys) -> Result<Body, DecryptionFailed> {
        let mut copy = [0; DATAGRAM_MAX];
        Body::read(self.decrypt(keys, &mut copy)?).ok_or(DecryptionFailed)
    }

    /// Decrypts the body of a knock of version 2. Its signature is not verified yet.
    ///
    /// # Errors
    /// If it was not encrypted with this key.
    pub fn open_signed(&self, keys: &KeeperKeys) -> Result<SignedBody, DecryptionFailed> {
        let mut copy = [0; DATAGRAM_MAX];
        let body = self.decrypt(keys, &mut copy)?;
        SignedBody::new(*self.hint, *self.nonce, body).ok_or(DecryptionFailed)
    }

    /// The captured bytes are borrowed, so decryption happens in place in a copy.
    fn decrypt<'c>(
        &self,
        keys: &KeeperKeys,
        copy: &'c mut [u8; DATAGRAM_MAX],
    ) -> Result<&'c [u8], DecryptionFailed> {
        let sealed = copy.get_mut(..self.sealed.len()).ok_or(DecryptionFailed)?;
        sealed.copy_from_slice(self.sealed);
        keys.seal.open(self.nonce, self.hint, sealed)
    }
}
