//! Conversion between bytes and values in both directions: the knock datagram, its body, the reply, and the ports of a
//! sequence. What only version 2 has is in `signed`. No input makes it panic.

mod body;
mod bytes;
mod datagram;
mod ports;
mod reply;
mod signed;

pub use body::{Body, UnsupportedFormat};
pub use bytes::Reader;
pub use datagram::{
    DATAGRAM_MAX, DATAGRAM_MIN, Datagram, Envelope, HINT, Hint, PADDING_MAX, SealError, hint,
};
pub use ports::{PROVEN, Proof, SELECTED, proof, selector, sequence};
pub use reply::{NotAReply, REPLY_LEN, open_reply, seal_reply};
pub use signed::{SignedBody, UnsignedKnock, VerifiedBody};
