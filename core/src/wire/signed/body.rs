//! The server's side: nothing but the timestamp and the reply flag of a body is read before its signature is verified.

use crate::crypto::Nonce;
use crate::crypto::ssh::{BadSignature, FidoData, KnockMessage, MessagePrefix, PublicKey, RawSignature};
use crate::knock::{ProtocolVersion, ReplyWanted, Timestamp};
use crate::wire::body::{BODY_MIN, FLAG_REPLY};
use crate::wire::{Body, Hint, PADDING_MAX, Reader};

/// Length in bytes of the longest body.
pub(super) const BODY_MAX: usize = BODY_MIN + 63;

const _: () = assert!(PADDING_MAX == 63, "the longest body has the most padding");

/// A decrypted body of version 2. Its signature is not verified.
#[derive(Debug, Clone)]
pub struct SignedBody {
    timestamp: Timestamp,
    reply: ReplyWanted,
    hint: Hint,
    nonce: Nonce,
    bytes: [u8; BODY_MAX],
    length: usize,
}

/// A body that the client's SSH key has signed.
#[derive(Debug, Clone)]
pub struct VerifiedBody {
    /// The content.
    pub body: Body,
    /// What the FIDO device states; FIDO kinds only.
    pub fido: Option<FidoData>,
}

impl SignedBody {
    /// `None` if no knock has a body of this length.
    pub(in crate::wire) fn new(hint: Hint, nonce: Nonce, body: &[u8]) -> Option<Self> {
        let mut bytes = [0; BODY_MAX];
        bytes.get_mut(..body.len())?.copy_from_slice(body);
        let mut reader = Reader::new(body);
        let (_version, flags) = (reader.u8()?, reader.u8()?);
        let timestamp = Timestamp::from_millis(reader.u64()?);
        let reply = if flags & FLAG_REPLY == 0 { ReplyWanted::No } else { ReplyWanted::Yes };
        Some(Self { timestamp, reply, hint, nonce, bytes, length: body.len() })
    }

    /// When the client created the knock, according to an unverified client.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Whether the sender requests a reply.
    #[must_use]
    pub const fn reply(&self) -> ReplyWanted {
        self.reply
    }

    /// Verifies that `key` signed this knock for the pair secret and the server of `prefix`. What the FIDO device states
    /// is still to be judged.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self, key: &PublicKey, prefix: &MessagePrefix) -> Result<VerifiedBody, BadSignature> {
        let (content, signature) = self.split(key).ok_or(BadSignature)?;
        let message = prefix.message(&self.hint, &self.nonce, content);
        key.verify(&message, &signature)?;
        let body = Body::read_as(ProtocolVersion::V2, content).ok_or(BadSignature)?;
        Ok(VerifiedBody { body, fido: signature.fido() })
    }

    /// The message that `key` must have signed, and the signature: evidence for a third party.
    #[must_use]
    pub fn evidence(&self, key: &PublicKey, prefix: &MessagePrefix) -> Option<(KnockMessage, RawSignature)> {
        let (content, signature) = self.split(key)?;
        Some((prefix.message(&self.hint, &self.nonce, content), signature))
    }

    fn split(&self, key: &PublicKey) -> Option<(&[u8], RawSignature)> {
        let kind = key.kind();
        let end = self.length.checked_sub(kind.signature_len())?;
        let (content, signature) = self.bytes.get(..self.length)?.split_at_checked(end)?;
        Some((content, RawSignature::read(kind, signature)?))
    }
}
