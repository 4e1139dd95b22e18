//! The client's side: a knock that waits for its signature.

use super::body::BODY_MAX;
use crate::crypto::ssh::{KnockMessage, PublicKey, RawSignature};
use crate::crypto::{ClientKeys, Nonce, random};
use crate::knock::{Knock, ProtocolVersion};
use crate::wire::body::{self, BODY_MIN};
use crate::wire::{Datagram, Hint, PADDING_MAX, SealError, hint};

/// A knock of version 2 without its signature. Everything else is fixed, including nonce and length.
#[derive(Debug, Clone)]
pub struct UnsignedKnock<'k> {
    key: &'k PublicKey,
    hint: Hint,
    nonce: Nonce,
    /// Ends before the signature.
    body: Vec<u8>,
    message: KnockMessage,
}

impl<'k> UnsignedKnock<'k> {
    /// Prepares `knock` for a signature by `key`, with a fresh nonce and a random length.
    ///
    /// # Errors
    /// If the system's random number generator fails, or the keys are of another version.
    pub fn new(knock: &Knock, keys: &ClientKeys, key: &'k PublicKey) -> Result<Self, SealError> {
        let [padding] = random()?;
        Self::with(knock, keys, key, random()?, padding & PADDING_MAX)
    }

    /// The same with a given nonce, which must never have been used before, and 0 to 63 bytes of padding, which are only
    /// used if the content fits into the shortest body: otherwise, the body has the greatest length.
    ///
    /// # Errors
    /// If the keys are of another version.
    pub fn with(
        knock: &Knock,
        keys: &ClientKeys,
        key: &'k PublicKey,
        nonce: Nonce,
        padding: u8,
    ) -> Result<Self, SealError> {
        let prefix = keys.message.as_ref().ok_or(SealError::Version(ProtocolVersion::V1))?;
        let mut body = body::write_content(ProtocolVersion::V2, knock);
        let size = key.kind().signature_len();
        let length = if body.len().saturating_add(size) <= BODY_MIN {
            BODY_MIN.saturating_add(usize::from(padding.min(PADDING_MAX)))
        } else {
            BODY_MAX
        };
        body.resize(length.saturating_sub(size), 0);
        let hint = hint(&keys.hint, knock.timestamp.epoch());
        let message = prefix.message(&hint, &nonce, &body);
        Ok(Self { key, hint, nonce, body, message })
    }

    /// The message that the SSH key must sign; [`KnockMessage::signed_data`] is what an agent is asked to sign.
    #[must_use]
    pub const fn message(&self) -> &KnockMessage {
        &self.message
    }

    /// Verifies the signature, encrypts the knock and adds the tag.
    ///
    /// # Errors
    /// If the SSH key did not make the signature. The knock must then not be sent.
    pub fn seal(self, signature: &RawSignature, keys: &ClientKeys) -> Result<Datagram, SealError> {
        self.key.verify(&self.message, signature)?;
        let body = [self.body, signature.to_bytes()].concat();
        Ok(Datagram::enclose(body, self.hint, self.nonce, keys)?)
    }
}
