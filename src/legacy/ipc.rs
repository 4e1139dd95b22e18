//! The messages of the legacy watcher, besides those that every watcher has (`ipc/shell.rs`). The watcher is told the
//! config's text, and reads it as the keeper does.

use std::net::{IpAddr, Ipv6Addr};

use super::knockd::{MatchEvent, MatchStage};
use crate::ipc::{FromShell, OWN};
use spa_knock_core::knock::{canonical, mapped};
use spa_knock_core::wire::Reader;

/// The first byte of each message.
const CONFIG: u8 = OWN;
const ONLY_V4: u8 = OWN + 1;
const ADDRESS: u8 = OWN + 2;
const ADDRESSES: u8 = OWN + 3;
const SEQUENCE: u8 = OWN + 4;
const EVENT: u8 = OWN;
const SUPPRESSED: u8 = OWN + 1;
const ALIVE: u8 = OWN + 2;

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToLegacyWatcher<'a> {
    /// The next piece of the config's text.
    Config(&'a [u8]),
    /// IPv6 packets are ignored.
    OnlyV4,
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
    /// What every watcher says.
    Shell(FromShell),
    /// What happened at a door.
    Event(MatchEvent),
    /// So many stages and timeouts were not reported, as there were too many.
    Suppressed(u32),
    /// It is still there.
    Alive,
}

impl<'a> ToLegacyWatcher<'a> {
    /// The message's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Config(text) => [&[CONFIG], *text].concat(),
            Self::OnlyV4 => vec![ONLY_V4],
            Self::Address(address) => [&[ADDRESS][..], &mapped(*address).octets()].concat(),
            Self::Addresses => vec![ADDRESSES],
            Self::Sequence(door, text) => [&[SEQUENCE][..], &door.to_be_bytes(), text].concat(),
        }
    }

    /// Reads a message of the keeper.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(match reader.u8()? {
            CONFIG => Self::Config(reader.rest()),
            ONLY_V4 => Self::OnlyV4,
            ADDRESS => Self::Address(canonical(Ipv6Addr::from(*reader.array()?).into())),
            ADDRESSES => Self::Addresses,
            SEQUENCE => Self::Sequence(reader.u32()?, reader.rest()),
            _ => return None,
        })
    }
}

impl FromLegacyWatcher {
    /// The message's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Shell(report) => report.to_bytes().to_vec(),
            Self::Event(MatchEvent { source, door, step }) => {
                let door = u32::try_from(*door).unwrap_or(u32::MAX).to_be_bytes();
                let (kind, stage) = match step {
                    MatchStage::Stage(stage) => (0, *stage),
                    MatchStage::Open => (1, 0),
                    MatchStage::Timeout(stage) => (2, *stage),
                };
                [&[EVENT][..], &mapped(*source).octets(), &door, &[kind, stage]].concat()
            }
            Self::Suppressed(number) => [&[SUPPRESSED][..], &number.to_be_bytes()].concat(),
            Self::Alive => vec![ALIVE],
        }
    }

    /// Reads a message of the watcher, which may be anything.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(match reader.u8()? {
            EVENT => {
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
            SUPPRESSED => Self::Suppressed(reader.u32()?),
            ALIVE => Self::Alive,
            _ => Self::Shell(FromShell::read(bytes)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        for order in [
            ToLegacyWatcher::Config(b"[a]\nsequence \xff"),
            ToLegacyWatcher::OnlyV4,
            ToLegacyWatcher::Address("10.0.0.1".parse().unwrap()),
            ToLegacyWatcher::Address("fd00::1".parse().unwrap()),
            ToLegacyWatcher::Addresses,
            ToLegacyWatcher::Sequence(7, b"1:tcp,2:udp"),
        ] {
            assert_eq!(ToLegacyWatcher::read(&order.to_bytes()), Some(order));
        }
        let event = |step| {
            FromLegacyWatcher::Event(MatchEvent { source: "10.0.0.2".parse().unwrap(), door: 3, step })
        };
        for report in [
            FromLegacyWatcher::Shell(FromShell::Watching),
            FromLegacyWatcher::Shell(FromShell::Failed("a\nb".to_owned())),
            event(MatchStage::Stage(32)),
            event(MatchStage::Open),
            event(MatchStage::Timeout(1)),
            FromLegacyWatcher::Suppressed(9),
            FromLegacyWatcher::Alive,
        ] {
            assert_eq!(FromLegacyWatcher::read(&report.to_bytes()), Some(report));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40), kind in 0..OWN + 8) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            let _ = ToLegacyWatcher::read(&bytes);
            let _ = FromLegacyWatcher::read(&bytes);
        }
    }
}
