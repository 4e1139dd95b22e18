//! What fwknop 2.6 understands: its packets (FKO 3.0.0 in symmetric mode with HMAC), its `access.conf` and
//! `fwknopd.conf`, and the rights that a packet has according to them. No I/O, no clock.
//!
//! A packet that arrives passes [`WireText::parse`] (length and alphabet, no secret needed), [`HmacKey::verify`] (one
//! hash), [`CipherKey::open`] (decryption), [`Message::parse`] (content) and [`Stanza::rights`] (policy), in this order.
//! A stanza without an HMAC key is refused: fwknop accepts a replay of a packet without HMAC if one character is
//! appended.

mod config;
mod packet;
mod rights;

pub use config::*;
pub use packet::*;
pub use rights::*;
