//! What the SSH key signs: a message of everything in the datagram except the signature and the two MACs, in the form of
//! OpenSSH's PROTOCOL.sshsig.

use sha2::{Digest, Sha512};

use super::strings;
use crate::knock::ServerId;

/// The namespace of knocks in signatures of OpenSSH (`ssh-keygen -Y sign -n`).
pub const SIGNATURE_NAMESPACE: &str = "knock@spa-knock";

const PREAMBLE: &[u8] = b"SSHSIG";
const HASH: &str = "sha512";
const VERSION: &[u8] = b"spa-knock/2";

/// The part of the message that is the same in all knocks of a client: version, server id and the `id` key. It contains
/// no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePrefix(Vec<u8>);

/// The message that the signature of one knock proves: `ssh-keygen -Y verify` accepts the signature over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnockMessage(Vec<u8>);

impl MessagePrefix {
    pub(in crate::crypto) fn new(server: &ServerId, id: &[u8; 32]) -> Self {
        Self([VERSION, &[0], server.as_str().as_bytes(), &[0], id].concat())
    }

    /// The message of one knock; `body` ends before the signature.
    #[must_use]
    pub fn message(&self, hint: &[u8], nonce: &[u8], body: &[u8]) -> KnockMessage {
        KnockMessage([self.0.as_slice(), hint, nonce, body].concat())
    }
}

impl KnockMessage {
    /// The message as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The data that an SSH key signs, and that is sent to ssh-agent.
    #[must_use]
    pub fn signed_data(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(128);
        data.extend(PREAMBLE);
        for string in [SIGNATURE_NAMESPACE.as_bytes(), b"", HASH.as_bytes(), &Sha512::digest(&self.0)] {
            strings::put(&mut data, string);
        }
        data
    }
}
