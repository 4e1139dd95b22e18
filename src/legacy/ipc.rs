//! Messages between keeper and legacy watcher, in addition to those of every watcher (`ipc/shell.rs`). The watcher
//! receives the text of the config and parses it itself.

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
    /// The next part of the config's text.
    Config(&'a [u8]),
    /// Ignore IPv6 packets.
    OnlyV4,
    /// An address of this host. Takes effect with `Addresses`.
    Address(IpAddr),
    /// The list of addresses is complete and replaces the previous one.
    Addresses,
    /// The new sequence of a door; empty for none.
    Sequence(u32, &'a [u8]),
}

/// From the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FromLegacyWatcher {
    /// A report of the common part of all watchers.
    Shell(FromShell),
    /// An event at a door.
    Event(MatchEvent),
    /// This number of stages and timeouts was not reported because there were too many.
    Suppressed(u32),
    /// The watcher is running.
    Alive,
}

impl<'a> ToLegacyWatcher<'a> {
    /// Encodes the message.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Config(text) => [&[CONFIG], *text].concat(),
            Self::OnlyV4 => vec![ONLY_V4],
            Self::Address(address) => [&[ADDRESS][..], &mapped(*address).octets()].concat(),
            Self::Addresses => vec![ADDRESSES],
            Self::Sequence(door, text) => [&[SEQUENCE][..], &door.to_be_bytes(), text].concat(),
        }
    }

    /// Decodes a message from the keeper. `None` if it is invalid.
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
    /// Encodes the message.
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

    /// Decodes a message from the watcher, which is untrusted. `None` if it is invalid.
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
    fn decoding_reverses_encoding() {
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
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), kind in 0..OWN + 8) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            let _ = ToLegacyWatcher::read(&bytes);
            let _ = FromLegacyWatcher::read(&bytes);
        }
    }
}
