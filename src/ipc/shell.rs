//! The messages that every kind of watcher understands and sends. Their first byte is below [`OWN`], so they cannot be
//! confused with the messages of one kind of watcher.

use super::codec::{Bytes, TEXT_MAX, Writer, read_text};
use super::packet_log;
use crate::capture::PacketLog;
use crate::os::process::privileges::Identity;
use spa_knock_core::wire::Reader;

/// The version, which a watcher reports first. The keeper rejects a watcher of another version, because the two may
/// have different messages.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", messages 1");

/// Messages whose first byte is at least this belong to one kind of watcher.
pub(crate) const OWN: u8 = 16;

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToShell {
    /// One interface to capture on; without this message, capture on all.
    Interface(String),
    /// Read packets from this log instead of capturing them.
    Log(PacketLog),
    /// The user to switch to once the captures are open; without this message, keep the user.
    Become(Identity),
    /// The configuration is complete: use it.
    Go(OnMissingInterface),
}

/// What to do about an interface that cannot be captured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnMissingInterface {
    /// The config is wrong: do not watch.
    Fail,
    /// It may return later: watch on the others.
    Continue,
}

/// From the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromShell {
    /// Its [`VERSION`]; always the first message.
    Version(String),
    /// It is watching.
    Watching,
    /// It cannot watch, or not any more; the reason as human-readable text.
    Failed(String),
    /// It is watching, but not on one of its interfaces; the reason as human-readable text.
    Lost(String),
}

impl ToShell {
    /// Encodes the message.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut writer = Writer::new();
        match self {
            Self::Interface(name) => writer.put(&[1]).put_text(name, TEXT_MAX),
            Self::Log(log) => {
                writer.put(&[2]).put(&packet_log::to_bytes(log));
            }
            Self::Become(Identity { uid, gid }) => {
                writer.put(&[3]).put(&uid.to_be_bytes()).put(&gid.to_be_bytes());
            }
            Self::Go(missing) => {
                let missing = match missing {
                    OnMissingInterface::Fail => 0,
                    OnMissingInterface::Continue => 1,
                };
                writer.put(&[4, missing]);
            }
        }
        writer.finish()
    }

    /// Decodes a message from the keeper.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            1 => read_text(&mut reader).map(Self::Interface),
            2 => packet_log::read(reader.rest()).map(Self::Log),
            3 => Some(Self::Become(Identity { uid: reader.u32()?, gid: reader.u32()? })),
            4 => Some(Self::Go(match reader.u8()? {
                0 => OnMissingInterface::Fail,
                1 => OnMissingInterface::Continue,
                _ => return None,
            })),
            _ => None,
        }
    }
}

impl FromShell {
    /// Encodes the message.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut writer = Writer::new();
        match self {
            Self::Version(text) => writer.put(&[1]).put_text(text, TEXT_MAX),
            Self::Watching => {
                writer.put(&[2]);
            }
            Self::Failed(text) => writer.put(&[3]).put_text(text, TEXT_MAX),
            Self::Lost(text) => writer.put(&[4]).put_text(text, TEXT_MAX),
        }
        writer.finish()
    }

    /// Decodes a message from the watcher; accepts any bytes.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            1 => read_text(&mut reader).map(Self::Version),
            2 => Some(Self::Watching),
            3 => read_text(&mut reader).map(Self::Failed),
            4 => read_text(&mut reader).map(Self::Lost),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::MESSAGE;
    use super::*;
    use crate::capture::LogSource;

    #[test]
    fn a_message_is_decoded_as_it_was_encoded() {
        for message in [
            ToShell::Interface("fifteen-letters".to_owned()),
            ToShell::Log(PacketLog { source: LogSource::Journal, prefix: "knock: ".to_owned() }),
            ToShell::Log(PacketLog {
                source: LogSource::File("/var/log/kern.log".into()),
                prefix: String::new(),
            }),
            ToShell::Become(Identity { uid: 65534, gid: 65533 }),
            ToShell::Go(OnMissingInterface::Fail),
            ToShell::Go(OnMissingInterface::Continue),
        ] {
            assert_eq!(ToShell::read(&message.to_bytes()), Some(message));
        }
        for message in [
            FromShell::Version(VERSION.to_owned()),
            FromShell::Watching,
            FromShell::Failed("a\nb".to_owned()),
            FromShell::Lost("c".to_owned()),
        ] {
            assert_eq!(FromShell::read(&message.to_bytes()), Some(message));
        }
    }

    #[test]
    fn a_long_text_is_truncated_and_loses_control_characters() {
        let bytes = FromShell::Failed(format!("a\u{1b}b\n{}", "ä".repeat(400))).to_bytes();
        let Some(FromShell::Failed(text)) = FromShell::read(&bytes) else { panic!("not a failure") };
        assert!(text.starts_with("ab\nä") && text.len() < TEXT_MAX && bytes.len() == MESSAGE);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_bytes_can_be_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..MESSAGE + 1), kind in 0_u8..8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = ToShell::read(&bytes);
            let _ = FromShell::read(&bytes);
        }
    }
}
