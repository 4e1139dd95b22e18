//! The SSH signature in a knock of version 2 (`docs/internals/protocol-2.md`): public keys, what is signed, the forms of
//! signatures, and their verification. Only the keeper and the client use it; the watcher does not contain it.

mod fingerprint;
mod message;
mod point;
mod public_key;
mod signature;
mod strings;

pub use fingerprint::{InvalidSshFingerprint, SshFingerprint};
pub use message::{KnockMessage, MessagePrefix, SIGNATURE_NAMESPACE};
pub use public_key::{BadSignature, PublicKey, PublicKeyError, PublicKeyKind};
pub use signature::{FidoData, RawSignature, SignatureError};
