//! Encodes the log that a watcher reads as part of a message.

use crate::capture::{LogSource, PacketLog};
use spa_knock_core::wire::Reader;

/// Encodes it in at most 430 bytes; a message has 512.
pub(crate) fn to_bytes(log: &PacketLog) -> Vec<u8> {
    let prefix = log.prefix.as_bytes();
    let length = u8::try_from(prefix.len()).unwrap_or(u8::MAX);
    let path = match &log.source {
        LogSource::Journal => "",
        LogSource::File(path) => path.to_str().unwrap_or_default(),
    };
    let path_length = u16::try_from(path.len()).unwrap_or(u16::MAX);
    [&[length][..], prefix, &path_length.to_be_bytes(), path.as_bytes()].concat()
}

/// Decodes it.
pub(crate) fn read(bytes: &[u8]) -> Option<PacketLog> {
    let mut reader = Reader::new(bytes);
    let prefix = std::str::from_utf8(reader.prefixed()?).ok()?.to_owned();
    let length = reader.u16()?;
    let path = std::str::from_utf8(reader.take(length.into())?).ok()?;
    let source = if path.is_empty() { LogSource::Journal } else { LogSource::File(path.into()) };
    Some(PacketLog { source, prefix })
}
