//! The messages that every watcher understands and sends, whatever it reads packets for. Their first byte is below
//! [`OWN`], so that a watcher's own messages are never taken for one of them.

use super::codec::{Bytes, TEXT_MAX, Writer, read_text};
use super::packet_log;
use crate::capture::PacketLog;
use crate::os::process::privileges::Identity;
use spa_knock_core::wire::Reader;

/// What a watcher reports first. The keeper refuses a watcher of another version: both may have messages that the other
/// does not know.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", messages 1");

/// The first byte of a message that only one kind of watcher has, and of all above it.
pub(crate) const OWN: u8 = 16;

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToShell {
    /// One interface to capture on; none at all = every one.
    Interface(String),
    /// Packets are read from this log, not captured.
    Log(PacketLog),
    /// The user to become once the captures are open; not sent = stay the same.
    Become(Identity),
    /// The configuration is complete: use it.
    Go(OnMissingInterface),
}

/// What an interface that cannot be captured on means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnMissingInterface {
    /// A mistake in the config: do not watch.
    Fail,
    /// It may be back later: watch on the others.
    Continue,
}

/// From the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromShell {
    /// Its [`VERSION`], before anything else.
    Version(String),
    /// It watches.
    Watching,
    /// It cannot, or not any more; the reason for people.
    Failed(String),
    /// It watches, but not on one of its interfaces; the reason for people.
    Lost(String),
}

impl ToShell {
    /// The message's bytes.
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

    /// Reads a message of the keeper.
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
    /// The message's bytes.
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

    /// Reads a message of the watcher, which may be anything.
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
    fn messages_arrive_as_they_were_sent() {
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
    fn a_long_text_is_cut_and_loses_control_characters() {
        let bytes = FromShell::Failed(format!("a\u{1b}b\n{}", "ä".repeat(400))).to_bytes();
        let Some(FromShell::Failed(text)) = FromShell::read(&bytes) else { panic!("not a failure") };
        assert!(text.starts_with("ab\nä") && text.len() < TEXT_MAX && bytes.len() == MESSAGE);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..MESSAGE + 1), kind in 0_u8..8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = ToShell::read(&bytes);
            let _ = FromShell::read(&bytes);
        }
    }
}
