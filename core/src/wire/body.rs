//! The encrypted body of a knock datagram.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{DATAGRAM_MAX, Reader};
use crate::knock::{AddressPolicy, Knock, ProtocolVersion, ReplyWanted, Timestamp};

/// Length in bytes of a body without random padding.
pub(super) const BODY_MIN: usize = 160;

/// Bit 0 of the flags: a reply is requested.
pub(super) const FLAG_REPLY: u8 = 1;
const NO_OTP: u32 = u32::MAX;

/// A decrypted body. Timestamp and reply flag exist in every version and are read immediately; [`Body::understand`]
/// returns the rest.
#[derive(Debug, Clone)]
pub struct Body {
    timestamp: Timestamp,
    reply: ReplyWanted,
    knock: Result<Knock, UnsupportedFormat>,
}

/// A body of another version, or with a reserved bit set, a policy above 2, a nonzero padding byte, a length out of
/// range, a name with an invalid character or an IPv4-mapped IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("knock format not supported by this version")]
pub struct UnsupportedFormat;

impl Body {
    /// Reads a body of version 1; `None` if it is shorter than the ten bytes that all versions share.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_as(ProtocolVersion::V1, bytes)
    }

    /// Reads a body that must be of this version; in version 2, `bytes` ends before the signature.
    pub(super) fn read_as(expected: ProtocolVersion, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        let flags = reader.u8()?;
        let timestamp = Timestamp::from_millis(reader.u64()?);
        let reply = if flags & FLAG_REPLY == 0 { ReplyWanted::No } else { ReplyWanted::Yes };
        let knock = if version == expected.number() && flags & !FLAG_REPLY == 0 {
            read_rest(reader, timestamp, reply).ok_or(UnsupportedFormat)
        } else {
            Err(UnsupportedFormat)
        };
        Some(Self { timestamp, reply, knock })
    }

    /// When the client created the knock, according to the client.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Whether the client requests a reply.
    #[must_use]
    pub const fn reply(&self) -> ReplyWanted {
        self.reply
    }

    /// The content of the knock.
    ///
    /// # Errors
    /// If this version does not support the format.
    pub const fn understand(&self) -> Result<&Knock, UnsupportedFormat> {
        match &self.knock {
            Ok(knock) => Ok(knock),
            Err(error) => Err(*error),
        }
    }
}

fn read_rest(mut reader: Reader<'_>, timestamp: Timestamp, reply: ReplyWanted) -> Option<Knock> {
    let seconds = reader.u32()?;
    let otp = Some(reader.u32()?).filter(|&otp| otp != NO_OTP);
    let policy = match reader.u8()? {
        0 => AddressPolicy::Observed,
        1 => AddressPolicy::Exact,
        2 => AddressPolicy::Listed,
        _ => return None,
    };
    let ipv4 = Some(Ipv4Addr::from(*reader.array()?)).filter(|ip| !ip.is_unspecified());
    let ipv6 = Some(Ipv6Addr::from(*reader.array()?)).filter(|ip| !ip.is_unspecified());
    if ipv6.is_some_and(|ip| ip.to_ipv4_mapped().is_some()) {
        return None;
    }
    let action = std::str::from_utf8(reader.prefixed()?).ok()?.parse().ok()?;
    let argument = std::str::from_utf8(reader.prefixed()?).ok()?.parse().ok()?;
    if reader.rest().iter().any(|&byte| byte != 0) {
        return None;
    }
    Some(Knock { timestamp, reply, seconds, otp, policy, ipv4, ipv6, action, argument })
}

/// Writes the body of `knock` with `padding` bytes beyond the minimum length.
pub(super) fn write(knock: &Knock, padding: usize) -> Vec<u8> {
    let mut body = write_content(ProtocolVersion::V1, knock);
    body.resize(BODY_MIN.saturating_add(padding), 0);
    body
}

/// Writes the content of `knock`, without the zeros that follow it.
pub(super) fn write_content(version: ProtocolVersion, knock: &Knock) -> Vec<u8> {
    // Encryption appends 16 bytes in place.
    let mut body = Vec::with_capacity(DATAGRAM_MAX);
    body.push(version.number());
    body.push(match knock.reply {
        ReplyWanted::Yes => FLAG_REPLY,
        ReplyWanted::No => 0,
    });
    body.extend(knock.timestamp.as_millis().to_be_bytes());
    body.extend(knock.seconds.to_be_bytes());
    body.extend(knock.otp.unwrap_or(NO_OTP).to_be_bytes());
    body.push(match knock.policy {
        AddressPolicy::Observed => 0,
        AddressPolicy::Exact => 1,
        AddressPolicy::Listed => 2,
    });
    body.extend(knock.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    body.extend(knock.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    for text in [knock.action.as_str(), knock.argument.as_str()] {
        // Both types limit the length to far less than 256.
        body.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        body.extend(text.bytes());
    }
    body
}
