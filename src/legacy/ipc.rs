//! What keeper and watcher of plain sequences tell each other: messages of at most 512 bytes. The watcher is told the
//! config's text, and reads it as the keeper does.

use std::net::{IpAddr, Ipv6Addr};

use super::knockd::{MatchEvent, MatchStage};
use crate::capture::PacketLog;
use crate::ipc::packet_log;
use crate::os::process::privileges::Identity;
use spa_knock_core::knock::{canonical, mapped};
use spa_knock_core::wire::Reader;

/// Bytes of the longest message.
pub(super) const MESSAGE: usize = 512;
/// What of a text goes into one.
pub(super) const TEXT_MAX: usize = 500;

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToLegacyWatcher<'a> {
    /// The next piece of the config's text.
    Config(&'a [u8]),
    /// One interface; none at all = every one.
    Interface(&'a str),
    /// Packets are read from this log, not captured.
    Log(PacketLog),
    /// Whom to become once the captures are open.
    Become(Identity),
    /// That was all: watch, on all interfaces or, if so many are not needed, on those that there are.
    Go {
        /// Whether IPv6 packets are not there.
        only_v4: bool,
        /// Whether it may do with fewer interfaces than there should be.
        some: bool,
    },
    /// An address of this host. They count from `Addresses` on.
    Address(IpAddr),
    /// Those were all.
    Addresses,
    /// A door opens to this sequence from now on; to none if it is empty.
    Sequence(u32, &'a [u8]),
}

/// From the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FromLegacyWatcher {
    /// It watches.
    Watching,
    /// It cannot, or not any more; the reason for people.
    Failed(String),
    /// It watches, but not on one of its interfaces; the reason for people.
    Lost(String),
    /// What happened at a door.
    Event(MatchEvent),
    /// So many stages and timeouts were not told, as there were too many.
    Untold(u32),
    /// It is still there.
    Alive,
}

impl<'a> ToLegacyWatcher<'a> {
    /// The message's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Config(text) => [&[1], *text].concat(),
            Self::Interface(name) => [&[2], name.as_bytes()].concat(),
            Self::Become(Identity { uid, gid }) => {
                [&[3][..], &uid.to_be_bytes(), &gid.to_be_bytes()].concat()
            }
            Self::Go { only_v4, some } => vec![4, u8::from(*only_v4), u8::from(*some)],
            Self::Address(address) => [&[5][..], &mapped(*address).octets()].concat(),
            Self::Addresses => vec![6],
            Self::Sequence(door, text) => [&[7][..], &door.to_be_bytes(), text].concat(),
            Self::Log(log) => [&[8][..], &packet_log::to_bytes(log)].concat(),
        }
    }

    /// Reads a message of the keeper.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(match reader.u8()? {
            1 => Self::Config(reader.rest()),
            2 => Self::Interface(std::str::from_utf8(reader.rest()).ok()?),
            3 => Self::Become(Identity { uid: reader.u32()?, gid: reader.u32()? }),
            4 => Self::Go { only_v4: reader.u8()? == 1, some: reader.u8()? == 1 },
            5 => Self::Address(canonical(Ipv6Addr::from(*reader.array()?).into())),
            6 => Self::Addresses,
            7 => Self::Sequence(reader.u32()?, reader.rest()),
            8 => Self::Log(packet_log::read(reader.rest())?),
            _ => return None,
        })
    }
}

impl FromLegacyWatcher {
    /// The message's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Watching => vec![1],
            Self::Failed(text) => [&[2], cut(text)].concat(),
            Self::Lost(text) => [&[3], cut(text)].concat(),
            Self::Event(MatchEvent { source, door, step }) => {
                let door = u32::try_from(*door).unwrap_or(u32::MAX).to_be_bytes();
                let (kind, stage) = match step {
                    MatchStage::Stage(stage) => (0, *stage),
                    MatchStage::Open => (1, 0),
                    MatchStage::Timeout(stage) => (2, *stage),
                };
                [&[4][..], &mapped(*source).octets(), &door, &[kind, stage]].concat()
            }
            Self::Untold(number) => [&[5][..], &number.to_be_bytes()].concat(),
            Self::Alive => vec![6],
        }
    }

    /// Reads a message of the watcher, which may be anything.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(match reader.u8()? {
            1 => Self::Watching,
            2 => Self::Failed(printable(reader.rest())),
            3 => Self::Lost(printable(reader.rest())),
            4 => {
                let source = canonical(Ipv6Addr::from(*reader.array()?).into());
                let door = usize::try_from(reader.u32()?).ok()?;
                let step = match (reader.u8()?, reader.u8()?) {
                    (0, stage) => MatchStage::Stage(stage),
                    (1, _) => MatchStage::Open,
                    (2, stage) => MatchStage::Timeout(stage),
                    _ => return None,
                };
                Self::Event(MatchEvent { source, door, step })
            }
            5 => Self::Untold(reader.u32()?),
            6 => Self::Alive,
            _ => return None,
        })
    }
}

fn cut(text: &str) -> &[u8] {
    text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default().as_bytes()
}

/// Text of a process that may be hostile: control characters but line ends go.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::capture::LogSource;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        for order in [
            ToLegacyWatcher::Config(b"[a]\nsequence \xff"),
            ToLegacyWatcher::Interface("eth0"),
            ToLegacyWatcher::Become(Identity { uid: 65534, gid: 65533 }),
            ToLegacyWatcher::Go { only_v4: true, some: false },
            ToLegacyWatcher::Address("10.0.0.1".parse().unwrap()),
            ToLegacyWatcher::Address("fd00::1".parse().unwrap()),
            ToLegacyWatcher::Addresses,
            ToLegacyWatcher::Sequence(7, b"1:tcp,2:udp"),
            ToLegacyWatcher::Log(PacketLog { source: LogSource::Journal, prefix: "knock: ".to_owned() }),
            ToLegacyWatcher::Log(PacketLog {
                source: LogSource::File("/var/log/kern.log".into()),
                prefix: String::new(),
            }),
        ] {
            assert_eq!(ToLegacyWatcher::read(&order.to_bytes()), Some(order));
        }
        let event = |step| {
            FromLegacyWatcher::Event(MatchEvent { source: "10.0.0.2".parse().unwrap(), door: 3, step })
        };
        for report in [
            FromLegacyWatcher::Watching,
            FromLegacyWatcher::Failed("a\nb".to_owned()),
            FromLegacyWatcher::Lost("c".to_owned()),
            event(MatchStage::Stage(32)),
            event(MatchStage::Open),
            event(MatchStage::Timeout(1)),
            FromLegacyWatcher::Untold(9),
            FromLegacyWatcher::Alive,
        ] {
            assert_eq!(FromLegacyWatcher::read(&report.to_bytes()), Some(report));
        }
    }

    #[test]
    fn a_long_text_is_cut_and_loses_control_characters() {
        let bytes = FromLegacyWatcher::Failed(format!("\u{1b}{}", "ä".repeat(400))).to_bytes();
        let Some(FromLegacyWatcher::Failed(text)) = FromLegacyWatcher::read(&bytes) else {
            panic!("not a failure")
        };
        assert!(text.starts_with('ä') && bytes.len() <= MESSAGE);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40), kind in 0_u8..10) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            let _ = ToLegacyWatcher::read(&bytes);
            let _ = FromLegacyWatcher::read(&bytes);
        }
    }
}
