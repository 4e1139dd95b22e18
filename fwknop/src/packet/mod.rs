//! Packets, from bytes to content and back.

mod armor;
mod cipher;
mod digest;
mod hmac_key;
mod http;
mod message;
mod text;

pub use armor::{WIRE_MAX, WIRE_MIN, WireText, identity_in_digest_cache};
pub use cipher::{CIPHER_KEY_MAX, CipherKey, KeyTooLong, SALT_LEN};
pub use digest::{Digest, UnknownDigest};
pub use hmac_key::{HMAC_KEY_MAX, HmacKey};
pub use http::{RequestPacket, RequestRules, packet_in_request};
pub use message::{Content, Message, MessageError, NatTarget, Port, RANDOM_LEN, Transport};
