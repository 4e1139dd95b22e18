//! The packets of fwknop 2.6 (FKO 3.0.0) in symmetric mode with HMAC: their text form, their authentication, their
//! encryption and their content. No I/O, no clock, no policy.
//!
//! A packet that arrives passes [`WireText::parse`] (length and alphabet, no secret needed), [`HmacKey::verify`] (one
//! hash), [`CipherKey::open`] (decryption) and [`Message::parse`] (content), in this order. A packet without an HMAC is
//! not supported: fwknop accepts a replay of such a packet if one character is appended.

mod armor;
mod cipher;
mod digest;
mod hmac_key;
mod message;
mod text;

pub use armor::{WIRE_MAX, WIRE_MIN, WireText};
pub use cipher::{CIPHER_KEY_MAX, CipherKey, KeyTooLong, SALT_LEN};
pub use digest::{Digest, UnknownDigest};
pub use hmac_key::{HMAC_KEY_MAX, HmacKey};
pub use message::{Content, Message, MessageError, NatTarget, Port, RANDOM_LEN, Transport};
