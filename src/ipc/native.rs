//! The messages of the native watcher: keys to it, authentic datagrams and port sequences from it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::codec::{Bytes, Writer};
use super::shell::{FromShell, OWN};
use crate::capture::CaptureStats;
use spa_knock_core::auth::{Authentic, DatagramCounts, KeyLimit, PortSequence, WatchedKey};
use spa_knock_core::crypto::{Fingerprint, Secret, WatcherKeys};
use spa_knock_core::knock::{KnockRange, TimeStep, canonical, mapped};
use spa_knock_core::wire::Reader;

/// Maximum number of ports in a sequence.
const PORTS_MAX: usize = 24;

/// The first byte of each message.
const WATCH: u8 = OWN;
const KEY: u8 = OWN + 1;
const COUNT: u8 = OWN + 2;
const KEY_WITHOUT_PORTS: u8 = OWN + 3;
const USUAL_SOURCE: u8 = OWN + 4;
const KNOCK: u8 = OWN;
const SEQUENCE: u8 = OWN + 1;
const STATS: u8 = OWN + 2;
const THROTTLED: u8 = OWN + 3;

/// From the keeper.
pub(crate) enum ToWatcher {
    /// How to watch. Keys follow.
    Watch {
        /// Where datagrams are received.
        source: CaptureSource,
        /// The knock port.
        port: u16,
        /// The ports of port sequences; none = ignore port sequences.
        knock_range: Option<KnockRange>,
        /// Maximum difference between a knock's timestamp and the clock.
        window: Duration,
    },
    /// One client's key and its limit.
    Key(WatchedKey),
    /// The address from which the client with this key knocked last with a valid SSH signature.
    UsualSource(Fingerprint, IpAddr),
    /// Report the statistics now.
    Count,
}

/// Where the watcher receives datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaptureSource {
    /// A capture with libpcap.
    Capture,
    /// The socket that the keeper has passed to it.
    Socket,
}

/// From the watcher.
pub(crate) enum FromWatcher<'a> {
    /// A message that every kind of watcher sends.
    Shell(FromShell),
    /// An authentic knock datagram.
    Knock(ReceivedKnock<'a>),
    /// Port hits from one address, two of which select a client.
    Sequence(PortSequence),
    /// Statistics since it started.
    Stats(WatcherStats),
    /// Number of a key's knocks dropped because of its limit, since the last report.
    Throttled(Fingerprint, u64),
}

/// Statistics of a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WatcherStats {
    /// Datagrams and port hits, by result.
    pub(crate) counts: DatagramCounts,
    /// Packets that its captures have received and missed; none if it has a socket instead.
    pub(crate) intake: Option<CaptureStats>,
}

impl WatcherStats {
    /// The sum of the statistics of two watchers.
    pub(crate) fn plus(self, other: Self) -> Self {
        let both = [self.intake, other.intake].into_iter().flatten().reduce(CaptureStats::plus);
        Self { counts: self.counts.plus(other.counts), intake: both }
    }
}

/// An authentic knock and its origin.
pub(crate) struct ReceivedKnock<'a> {
    /// The sender's address.
    pub(crate) source: SocketAddr,
    /// The local address that it was sent to.
    pub(crate) destination: IpAddr,
    /// The index of the interface, 0 if not known.
    pub(crate) interface: u32,
    /// The knock.
    pub(crate) knock: Authentic<'a>,
}

/// The addresses of a reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyPath {
    /// The local address that the knock was sent to.
    pub(crate) from: IpAddr,
    /// The address that the knock came from.
    pub(crate) to: SocketAddr,
    /// The index of the interface, 0 if not known.
    pub(crate) interface: u32,
}

impl ReceivedKnock<'_> {
    /// The sender's address; a link-local address has the interface as its scope.
    pub(crate) fn linked_source(&self) -> SocketAddr {
        match self.source {
            SocketAddr::V6(source) if source.ip().is_unicast_link_local() => {
                SocketAddrV6::new(*source.ip(), source.port(), 0, self.interface).into()
            }
            source => source,
        }
    }

    /// The addresses of a reply to it.
    pub(crate) const fn reply_path(&self) -> ReplyPath {
        ReplyPath { from: self.destination, to: self.source, interface: self.interface }
    }
}

impl ReplyPath {
    /// For a knock that never gets a reply.
    pub(crate) const fn unanswered(source: SocketAddr) -> Self {
        Self { from: IpAddr::V6(Ipv6Addr::UNSPECIFIED), to: source, interface: 0 }
    }
}

impl ToWatcher {
    /// Encodes the message.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut writer = Writer::new();
        match self {
            Self::Watch { source, port, knock_range, window } => {
                let source = match source {
                    CaptureSource::Capture => 0,
                    CaptureSource::Socket => 1,
                };
                let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
                // 0 = none: no range begins at 0.
                let low = knock_range.map_or(0, KnockRange::low);
                writer.put(&[WATCH, source]).put(&port.to_be_bytes()).put(&window.to_be_bytes());
                writer.put(&low.to_be_bytes());
            }
            Self::Key(WatchedKey { fingerprint, keys, limit }) => {
                let kind = if keys.selector.is_some() { KEY } else { KEY_WITHOUT_PORTS };
                writer.put(&[kind]).put(fingerprint.as_bytes());
                limit.to_nanos().iter().for_each(|nanos| {
                    writer.put(&nanos.to_be_bytes());
                });
                for key in [Some(&keys.hint), Some(&keys.sign), keys.selector.as_ref()].into_iter().flatten()
                {
                    writer.put(key.expose());
                }
            }
            Self::UsualSource(fingerprint, source) => {
                writer.put(&[USUAL_SOURCE]).put(fingerprint.as_bytes()).put(&mapped(*source).octets());
            }
            Self::Count => {
                writer.put(&[COUNT]);
            }
        }
        writer.finish()
    }

    /// Decodes a message from the keeper.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            WATCH => {
                let source = match reader.u8()? {
                    0 => CaptureSource::Capture,
                    1 => CaptureSource::Socket,
                    _ => return None,
                };
                let port = reader.u16()?;
                let window = Duration::from_millis(reader.u64()?);
                let knock_range = match reader.u16()? {
                    0 => None,
                    low => Some(KnockRange::try_from(low).ok()?),
                };
                Some(Self::Watch { source, port, knock_range, window })
            }
            kind @ (KEY | KEY_WITHOUT_PORTS) => {
                let fingerprint = Fingerprint::from_bytes(*reader.array()?);
                let limit = KeyLimit::from_nanos([reader.u64()?, reader.u64()?]);
                let mut key = || reader.array().map(Secret::from_bytes);
                let (hint, sign) = (key()?, key()?);
                let selector = if kind == KEY { Some(key()?) } else { None };
                let keys = WatcherKeys { hint, sign, selector };
                Some(Self::Key(WatchedKey { fingerprint, keys, limit }))
            }
            USUAL_SOURCE => {
                let fingerprint = Fingerprint::from_bytes(*reader.array()?);
                let source = canonical(Ipv6Addr::from(*reader.array()?).into());
                Some(Self::UsualSource(fingerprint, source))
            }
            COUNT => Some(Self::Count),
            _ => None,
        }
    }
}

impl<'a> FromWatcher<'a> {
    /// Encodes the message.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut writer = Writer::new();
        match self {
            Self::Shell(report) => return report.to_bytes(),
            Self::Knock(ReceivedKnock { source, destination, interface, knock }) => {
                let envelope = knock.envelope();
                writer.put(&[KNOCK]);
                writer.put(&mapped(source.ip()).octets()).put(&source.port().to_be_bytes());
                writer.put(&mapped(*destination).octets()).put(&interface.to_be_bytes());
                writer.put(knock.fingerprint().as_bytes());
                let length = envelope.signed.len().saturating_add(envelope.tag.len());
                writer.put(&u16::try_from(length).unwrap_or(0).to_be_bytes());
                writer.put(envelope.signed).put(envelope.tag);
            }
            Self::Sequence(sequence) => {
                let source = sequence.source();
                writer.put(&[SEQUENCE]).put(sequence.fingerprint().as_bytes());
                writer.put(&sequence.step().number().to_be_bytes());
                writer.put(&mapped(source.ip()).octets()).put(&source.port().to_be_bytes());
                let ports = sequence.ports().iter().take(PORTS_MAX);
                writer.put(&[u8::try_from(ports.len()).unwrap_or(0)]);
                ports.for_each(|port| {
                    writer.put(&port.to_be_bytes());
                });
            }
            Self::Stats(WatcherStats { counts, intake }) => {
                let DatagramCounts {
                    authentic,
                    bad_length,
                    unknown_hint,
                    forged,
                    duplicates,
                    port_hits,
                    sequences,
                    throttled,
                } = counts;
                writer.put(&[STATS, u8::from(intake.is_some())]);
                let CaptureStats { received, dropped, if_dropped } = intake.unwrap_or_default();
                for number in [
                    authentic,
                    bad_length,
                    unknown_hint,
                    forged,
                    duplicates,
                    port_hits,
                    sequences,
                    throttled,
                    &received,
                    &dropped,
                    &if_dropped,
                ] {
                    writer.put(&number.to_be_bytes());
                }
            }
            Self::Throttled(fingerprint, count) => {
                writer.put(&[THROTTLED]).put(fingerprint.as_bytes()).put(&count.to_be_bytes());
            }
        }
        writer.finish()
    }

    /// Decodes a message from the watcher; accepts any bytes.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            KNOCK => {
                let mut address = || Some(canonical(IpAddr::V6(Ipv6Addr::from(*reader.array()?))));
                let source_ip = address()?;
                let source = SocketAddr::new(source_ip, reader.u16()?);
                let destination = canonical(IpAddr::V6(Ipv6Addr::from(*reader.array()?)));
                let interface = reader.u32()?;
                let fingerprint = Fingerprint::from_bytes(*reader.array()?);
                let length = usize::from(reader.u16()?);
                let knock = Authentic::from_watcher(fingerprint, reader.take(length)?)?;
                Some(Self::Knock(ReceivedKnock { source, destination, interface, knock }))
            }
            STATS => {
                let captures = match reader.u8()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                let mut number = || reader.u64();
                let counts = DatagramCounts {
                    authentic: number()?,
                    bad_length: number()?,
                    unknown_hint: number()?,
                    forged: number()?,
                    duplicates: number()?,
                    port_hits: number()?,
                    sequences: number()?,
                    throttled: number()?,
                };
                let intake = CaptureStats { received: number()?, dropped: number()?, if_dropped: number()? };
                Some(Self::Stats(WatcherStats { counts, intake: captures.then_some(intake) }))
            }
            SEQUENCE => {
                let fingerprint = Fingerprint::from_bytes(*reader.array()?);
                let step = TimeStep::new(reader.u64()?);
                let address = canonical(IpAddr::V6(Ipv6Addr::from(*reader.array()?)));
                let source = SocketAddr::new(address, reader.u16()?);
                let count = usize::from(reader.u8()?);
                let ports = (0..count.min(PORTS_MAX)).map(|_| reader.u16()).collect::<Option<Vec<_>>>()?;
                (count <= PORTS_MAX)
                    .then(|| Self::Sequence(PortSequence::from_watcher(fingerprint, step, source, ports)))
            }
            THROTTLED => Some(Self::Throttled(Fingerprint::from_bytes(*reader.array()?), reader.u64()?)),
            _ => FromShell::read(bytes).map(Self::Shell),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::MESSAGE;
    use super::*;
    use spa_knock_core::auth::Rate;

    #[test]
    fn a_message_to_the_watcher_is_decoded_as_it_was_encoded() {
        let window = Duration::from_secs(30);
        for knock_range in [None, Some(KnockRange::USUAL)] {
            let watch = ToWatcher::Watch { source: CaptureSource::Socket, port: 62201, knock_range, window };
            assert!(matches!(
                ToWatcher::read(&watch.to_bytes()),
                Some(ToWatcher::Watch { source: CaptureSource::Socket, port: 62201, knock_range: b, window: w })
                    if (b, w) == (knock_range, window)
            ));
        }
        let key = |n| Secret::from_bytes(&[n; 32]);
        for selector in [None, Some(3)] {
            let keys = WatcherKeys { hint: key(1), sign: key(2), selector: selector.map(key) };
            let (fingerprint, limit) = (Fingerprint::from_bytes([9; 8]), KeyLimit::new(9, Rate::a_second(3)));
            let key = ToWatcher::Key(WatchedKey { fingerprint, keys, limit });
            let Some(ToWatcher::Key(read)) = ToWatcher::read(&key.to_bytes()) else { panic!("not a key") };
            assert_eq!((read.fingerprint, read.limit), (fingerprint, limit));
            let first = |key: &Secret| key.expose()[0];
            assert_eq!([read.keys.hint, read.keys.sign].map(|key| first(&key)), [1, 2]);
            assert_eq!(read.keys.selector.as_ref().map(first), selector);
        }
        for source in ["192.0.2.7", "2001:db8::7"].map(|source| source.parse().unwrap()) {
            let usual = ToWatcher::UsualSource(Fingerprint::from_bytes([9; 8]), source);
            assert!(matches!(
                ToWatcher::read(&usual.to_bytes()),
                Some(ToWatcher::UsualSource(key, read)) if (key.as_bytes(), read) == (&[9; 8], source)
            ));
        }
        assert!(matches!(ToWatcher::read(&ToWatcher::Count.to_bytes()), Some(ToWatcher::Count)));
    }

    #[test]
    fn each_capture_source_is_decoded_as_it_was_encoded_and_no_other_number_is_one() {
        let window = Duration::from_secs(30);
        for (number, source) in [(0, CaptureSource::Capture), (1, CaptureSource::Socket)] {
            let watch = ToWatcher::Watch { source, port: 62201, knock_range: None, window };
            let mut bytes = watch.to_bytes();
            assert_eq!(bytes[1], number);
            let read = ToWatcher::read(&bytes);
            assert!(matches!(read, Some(ToWatcher::Watch { source: read, .. }) if read == source));
            bytes[1] = 2;
            assert!(ToWatcher::read(&bytes).is_none());
        }
    }

    #[test]
    fn only_a_link_local_source_has_the_interface_of_its_knock() {
        let datagram = [7; 228];
        for (source, linked) in [
            ("[fe80::1]:4000", "[fe80::1%3]:4000"),
            ("[2001:db8::1]:4000", "[2001:db8::1]:4000"),
            ("10.0.0.1:4000", "10.0.0.1:4000"),
        ] {
            let knock = ReceivedKnock {
                source: source.parse().unwrap(),
                destination: "10.0.0.2".parse().unwrap(),
                interface: 3,
                knock: Authentic::from_watcher(Fingerprint::from_bytes([5; 8]), &datagram).unwrap(),
            };
            assert_eq!(knock.linked_source(), linked.parse().unwrap());
            let path = knock.reply_path();
            assert_eq!((path.from, path.to, path.interface), (knock.destination, knock.source, 3));
        }
    }

    #[test]
    fn a_knock_without_a_reply_has_a_path_from_no_address() {
        for source in ["[2001:db8::1]:4000", "10.0.0.1:4000"].map(|source| source.parse().unwrap()) {
            let path = ReplyPath::unanswered(source);
            assert_eq!((path.from.is_unspecified(), path.to, path.interface), (true, source, 0));
        }
    }

    #[test]
    fn a_message_of_every_watcher_is_decoded_as_it_was_encoded() {
        let bytes = FromWatcher::Shell(FromShell::Failed("no device".to_owned())).to_bytes();
        assert!(matches!(
            FromWatcher::read(&bytes),
            Some(FromWatcher::Shell(FromShell::Failed(reason))) if reason == "no device"
        ));
    }

    #[test]
    fn statistics_are_decoded_as_they_were_encoded_and_can_be_added() {
        let counts = DatagramCounts {
            authentic: 1,
            bad_length: 2,
            unknown_hint: u64::MAX,
            forged: 4,
            duplicates: 5,
            port_hits: 9,
            sequences: 10,
            throttled: 11,
        };
        let intake = CaptureStats { received: 6, dropped: 7, if_dropped: 8 };
        for stats in [WatcherStats { counts, intake: Some(intake) }, WatcherStats { counts, intake: None }] {
            let bytes = FromWatcher::Stats(stats).to_bytes();
            assert!(matches!(FromWatcher::read(&bytes), Some(FromWatcher::Stats(read)) if read == stats));
        }
        let both = WatcherStats { counts, intake: Some(intake) }.plus(WatcherStats { counts, intake: None });
        assert_eq!(
            both,
            WatcherStats {
                counts: DatagramCounts {
                    authentic: 2,
                    bad_length: 4,
                    unknown_hint: u64::MAX,
                    forged: 8,
                    duplicates: 10,
                    port_hits: 18,
                    sequences: 20,
                    throttled: 22
                },
                intake: Some(intake)
            }
        );
    }

    #[test]
    fn a_count_of_throttled_knocks_is_decoded_as_it_was_encoded() {
        let key = Fingerprint::from_bytes([5; 8]);
        let bytes = FromWatcher::Throttled(key, 70_000).to_bytes();
        assert!(matches!(FromWatcher::read(&bytes), Some(FromWatcher::Throttled(k, 70_000)) if k == key));
    }

    #[test]
    fn the_longest_knock_fits_into_a_message_with_its_origin() {
        for (source, length) in [("10.0.0.1:4000", 228), ("[2001:db8::1]:4000", 291)] {
            let datagram: Vec<u8> = (0..=255).cycle().take(length).collect();
            let knock = Authentic::from_watcher(Fingerprint::from_bytes([5; 8]), &datagram).unwrap();
            let source: SocketAddr = source.parse().unwrap();
            let destination: IpAddr = "10.0.0.2".parse().unwrap();
            let bytes =
                FromWatcher::Knock(ReceivedKnock { source, destination, interface: 3, knock }).to_bytes();
            let Some(FromWatcher::Knock(read)) = FromWatcher::read(&bytes) else { panic!("not a knock") };
            assert_eq!((read.source, read.destination, read.interface), (source, destination, 3));
            assert_eq!(read.knock.envelope().signed, &datagram[..length - 32]);
            assert_eq!(read.knock.envelope().tag, &datagram[length - 32..]);
        }
    }

    #[test]
    fn a_sequence_is_decoded_with_at_most_24_ports() {
        for (source, count) in [("10.0.0.1:4000", 0), ("[2001:db8::1]:4000", 24), ("10.0.0.1:1", 25)] {
            let ports: Vec<u16> = (20_480..).take(count).collect();
            let fingerprint = Fingerprint::from_bytes([5; 8]);
            let sequence =
                PortSequence::from_watcher(fingerprint, TimeStep::new(7), source.parse().unwrap(), ports);
            let bytes = FromWatcher::Sequence(sequence.clone()).to_bytes();
            let Some(FromWatcher::Sequence(read)) = FromWatcher::read(&bytes) else { panic!("no sequence") };
            assert_eq!(read == sequence, count <= 24);
            assert_eq!(read.ports(), &sequence.ports()[..count.min(24)]);
        }
        let mut bytes = FromWatcher::Sequence(PortSequence::from_watcher(
            Fingerprint::from_bytes([5; 8]),
            TimeStep::new(7),
            "10.0.0.1:1".parse().unwrap(),
            Vec::new(),
        ))
        .to_bytes();
        bytes[35] = 25;
        assert!(FromWatcher::read(&bytes).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_bytes_can_be_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..MESSAGE + 1), kind in OWN..OWN + 8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = ToWatcher::read(&bytes);
            let _ = FromWatcher::read(&bytes);
        }
    }
}
