//! The reply datagram: nonce and encrypted body of fixed size, bound to one knock by its nonce.

use std::net::{IpAddr, Ipv6Addr};

use super::Reader;
use crate::crypto::{AEAD_TAG, DecryptionFailed, NONCE, Nonce, ReplyKey};
use crate::knock::{ProtocolVersion, Reply, ReplyStatus, ReplyText, Timestamp, canonical, mapped};

/// Length of every reply in bytes.
pub const REPLY_LEN: usize = NONCE + REPLY_BODY + AEAD_TAG;

const REPLY_BODY: usize = 96;

/// Error: the bytes are not a reply to this knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a reply to this knock")]
pub struct NotAReply;

/// Encrypts `reply` to the knock with the nonce `knock`, using a fresh `nonce`.
///
/// # Errors
/// If the cipher fails, which never happens for so few bytes.
pub fn seal_reply(
    reply: &Reply,
    key: &ReplyKey,
    knock: &Nonce,
    nonce: &Nonce,
) -> Result<Vec<u8>, DecryptionFailed> {
    let mut body = Vec::with_capacity(REPLY_BODY.saturating_add(AEAD_TAG));
    body.push(key.version.number());
    body.push(reply.status.code());
    body.extend(reply.server_time.as_millis().to_be_bytes());
    body.extend(mapped(reply.observed).octets());
    body.extend(reply.port.to_be_bytes());
    body.extend(reply.seconds.to_be_bytes());
    let text = reply.text.as_str();
    body.push(u8::try_from(text.len()).unwrap_or(0));
    body.extend(text.bytes());
    body.resize(REPLY_BODY, 0);
    key.seal.seal(nonce, knock, &mut body)?;
    Ok([nonce.as_slice(), &body].concat())
}

/// Decrypts the reply to the knock with the nonce `knock`.
///
/// # Errors
/// If it was not encrypted with this key for this knock, or has content that this version does not support.
pub fn open_reply(bytes: &[u8], key: &ReplyKey, knock: &Nonce) -> Result<Reply, NotAReply> {
    if bytes.len() != REPLY_LEN {
        return Err(NotAReply);
    }
    let (nonce, sealed) = bytes.split_first_chunk().ok_or(NotAReply)?;
    let mut sealed = sealed.to_vec();
    let body = key.seal.open(nonce, knock, &mut sealed).map_err(|DecryptionFailed| NotAReply)?;
    read_body(key.version, body).ok_or(NotAReply)
}

fn read_body(version: ProtocolVersion, body: &[u8]) -> Option<Reply> {
    let mut reader = Reader::new(body);
    if reader.u8()? != version.number() {
        return None;
    }
    let status = ReplyStatus::from_code(reader.u8()?)?;
    if status == ReplyStatus::SignatureRefused && version == ProtocolVersion::V1 {
        return None;
    }
    Some(Reply {
        status,
        server_time: Timestamp::from_millis(reader.u64()?),
        observed: canonical(IpAddr::V6(Ipv6Addr::from(*reader.array()?))),
        port: reader.u16()?,
        seconds: reader.u32()?,
        text: ReplyText::fitting(&String::from_utf8_lossy(reader.prefixed()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_another_version_or_with_an_unknown_status_is_not_a_reply() {
        for (version, other) in
            [(ProtocolVersion::V1, ProtocolVersion::V2), (ProtocolVersion::V2, ProtocolVersion::V1)]
        {
            let read = |first: u8, status: u8| {
                let mut body = [0; REPLY_BODY];
                (body[0], body[1]) = (first, status);
                read_body(version, &body).is_some()
            };
            assert!(read(version.number(), ReplyStatus::Granted.code()));
            assert!(!read(other.number(), ReplyStatus::Granted.code()));
            assert!(!read(version.number(), u8::MAX));
        }
    }
}
