//! Messages between keeper and fwknop watcher, in addition to those of every watcher (`ipc/shell.rs`). Of the stanzas,
//! the watcher gets the HMAC keys and nothing else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use zeroize::Zeroizing;

use crate::capture::CapturedPorts;
use crate::ipc::{Bytes, FromShell, MESSAGE, OWN};
use spa_knock_core::knock::{canonical, mapped};
use spa_knock_core::wire::Reader;
use spa_knock_fwknop::{Digest, RequestRules};

/// The first byte of each message.
const SOURCES: u8 = OWN;
const KEY: u8 = OWN + 1;
const PACKET: u8 = OWN;
const STATS: u8 = OWN + 1;

/// Where packets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PacketSources {
    /// Whether packets come by a UDP socket, not by capture.
    pub(super) socket: bool,
    /// The ports.
    pub(super) ports: CapturedPorts,
    /// Whether a TCP segment as a whole can be a packet.
    pub(super) segments: bool,
    /// How requests of HTTP are searched.
    pub(super) rules: RequestRules,
}

/// From the keeper.
pub(super) enum ToFwknopWatcher {
    /// Where packets come from. Removes all keys.
    Sources(PacketSources),
    /// The HMAC key of a stanza.
    Key(Digest, Zeroizing<Vec<u8>>),
}

/// From the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FromFwknopWatcher<'a> {
    /// A report of the common part of all watchers.
    Shell(FromShell),
    /// A packet that is authentic under at least one key.
    Packet(ArrivedPacket<'a>),
    /// The number of packets that were dropped unread since the last report; sent regularly, even if it is zero.
    Stats(DropCounts),
}

/// A packet, and where it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArrivedPacket<'a> {
    /// Its source address and port.
    pub(super) source: SocketAddr,
    /// Its destination address.
    pub(super) destination: IpAddr,
    /// Its text.
    pub(super) text: &'a [u8],
}

/// Packets that the watcher dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DropCounts {
    /// Possible packets that were not verified, because there were too many.
    pub(super) unverified: u32,
    /// Authentic packets over the limit of their key.
    pub(super) throttled: u32,
}

impl ToFwknopWatcher {
    /// Encodes the message.
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MESSAGE));
        match self {
            Self::Sources(PacketSources { socket, ports, segments, rules }) => {
                let flags = [*socket, ports.http, *segments, rules.any_user_agent, rules.forwarded_for];
                bytes.push(SOURCES);
                bytes.extend(flags.map(u8::from));
                for range in [&ports.udp, &ports.tcp] {
                    // Port 0 is never captured.
                    let (low, high) = range.clone().map_or((0, 0), RangeInclusive::into_inner);
                    bytes.extend([low.to_be_bytes(), high.to_be_bytes()].as_flattened());
                }
            }
            Self::Key(digest, key) => {
                let digest = Digest::ALL.iter().position(|known| known == digest);
                let digest = digest.and_then(|position| u8::try_from(position).ok());
                bytes.extend([KEY, digest.unwrap_or(u8::MAX)]);
                bytes.extend_from_slice(key);
            }
        }
        bytes
    }

    /// Decodes a message from the keeper. `None` if it is invalid.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(match reader.u8()? {
            SOURCES => {
                let [socket, http, segments, any_user_agent, forwarded_for] =
                    reader.array::<5>()?.map(|flag| flag != 0);
                let mut range = || {
                    let (low, high) = (reader.u16()?, reader.u16()?);
                    Some((low != 0).then_some(low..=high))
                };
                let ports = CapturedPorts { udp: range()?, tcp: range()?, http };
                let rules = RequestRules { any_user_agent, forwarded_for };
                Self::Sources(PacketSources { socket, ports, segments, rules })
            }
            KEY => {
                let digest = *Digest::ALL.get(usize::from(reader.u8()?))?;
                Self::Key(digest, Zeroizing::new(reader.rest().to_vec()))
            }
            _ => return None,
        })
    }
}

impl<'a> FromFwknopWatcher<'a> {
    /// Encodes the message.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Shell(report) => report.to_bytes().to_vec(),
            Self::Packet(ArrivedPacket { source, destination, text }) => [
                &[PACKET][..],
                &mapped(source.ip()).octets(),
                &source.port().to_be_bytes(),
                &mapped(*destination).octets(),
                text,
            ]
            .concat(),
            Self::Stats(DropCounts { unverified, throttled }) => {
                [&[STATS][..], &unverified.to_be_bytes(), &throttled.to_be_bytes()].concat()
            }
        }
    }

    /// Decodes a message from the watcher, which is untrusted. `None` if it is invalid.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(match reader.u8()? {
            PACKET => {
                let source = canonical(Ipv6Addr::from(*reader.array()?).into());
                let source = SocketAddr::new(source, reader.u16()?);
                let destination = canonical(Ipv6Addr::from(*reader.array()?).into());
                Self::Packet(ArrivedPacket { source, destination, text: reader.rest() })
            }
            STATS => Self::Stats(DropCounts { unverified: reader.u32()?, throttled: reader.u32()? }),
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
        let sources = PacketSources {
            socket: true,
            ports: CapturedPorts { udp: Some(1..=2), tcp: None, http: false },
            segments: true,
            rules: RequestRules { any_user_agent: false, forwarded_for: true },
        };
        for sources in [
            sources.clone(),
            PacketSources {
                ports: CapturedPorts { udp: None, tcp: Some(3..=65_535), http: true },
                ..sources
            },
        ] {
            let bytes = ToFwknopWatcher::Sources(sources.clone()).to_bytes();
            assert!(
                matches!(ToFwknopWatcher::read(&bytes), Some(ToFwknopWatcher::Sources(read)) if read == sources)
            );
        }
        for digest in Digest::ALL {
            let bytes = ToFwknopWatcher::Key(digest, Zeroizing::new(b"key".to_vec())).to_bytes();
            let Some(ToFwknopWatcher::Key(read, key)) = ToFwknopWatcher::read(&bytes) else {
                panic!("no key")
            };
            assert_eq!((read, key.as_slice()), (digest, &b"key"[..]));
        }
        for report in [
            FromFwknopWatcher::Shell(FromShell::Watching),
            FromFwknopWatcher::Packet(ArrivedPacket {
                source: "10.0.0.1:4000".parse().unwrap(),
                destination: "fd00::1".parse().unwrap(),
                text: b"8abc",
            }),
            FromFwknopWatcher::Stats(DropCounts { unverified: 7, throttled: 9 }),
        ] {
            assert_eq!(FromFwknopWatcher::read(&report.to_bytes()), Some(report));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..OWN + 8) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            let _ = ToFwknopWatcher::read(&bytes);
            let _ = FromFwknopWatcher::read(&bytes);
        }
    }
}
