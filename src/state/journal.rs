//! The journal's format: a header, records of equal size, and an end mark after the last record. Each record has a
//! checksum that also covers its position and the journal's number, so that stale or moved bytes are not accepted as a
//! record. The space after the end mark is filled with zeros.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind, see below |
//! | 1 | 8 | key's fingerprint (header: the journal's number) |
//! | 9 | 8 | timestamp in ms (kinds 3, 6 and 8: the highest accepted) |
//! | 17 | 8 | floor in ms |
//! | 25 | 12 | id |
//! | 37 | 3 | zeros |
//! | 40 | 8 | checksum |
//!
//! An acceptance with the counter of a FIDO device (kind 11), and the counter of the latest one (kind 12, without id and
//! floor), differ in two fields:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 17 | 4 | how far the floor is below the timestamp, in ms |
//! | 21 | 4 | counter |
//! | 37 | 3 | the first bytes of the SHA-256 of the public key |
//!
//! From where the last authorized knock of a key came (kind 13) has the address in the place of floor and id: 16 bytes,
//! an IPv4 address as an IPv4-mapped one, then zeros.
//!
//! | replay domain | common floor | floor of a key or seed | acceptance |
//! |---|---|---|---|
//! | datagrams | 2 | 3 | 4 |
//! | port sequences | 2 | 6 | 7 |
//! | one-time passwords | 10 | 8 | 9 |
//!
//! Kind 1 is the header, kind 5 the end mark. A version that does not know a kind reports damage.

use std::net::{IpAddr, Ipv6Addr};

use spa_knock_core::auth::{Acceptance, FidoCounter, LastSource, ReplayDomain, ReplayMemory};
use spa_knock_core::crypto::{Fingerprint, checksum};
use spa_knock_core::knock::{Timestamp, canonical, mapped};
use spa_knock_core::wire::Reader;

/// Size of a record in bytes.
pub(super) const RECORD: usize = 48;
/// The number of record bytes that the checksum covers. Together with number and position they fill one block of the
/// hash.
const CHECKED: usize = 37;
/// The same for records with a counter, which use all bytes before the checksum.
const CHECKED_WITH_COUNTER: usize = SUM;
/// Offset of the checksum.
const SUM: usize = 40;
/// The id field of a header: the format and its version.
const FORMAT: &[u8; 12] = b"spa-knock/1\n";
/// Kinds of records with a counter.
const ACCEPTED_WITH_COUNTER: u8 = 11;
const COUNTER: u8 = 12;
/// Kind of the record of an address.
const SOURCE: u8 = 13;

/// The journal's number: a new random number each time the journal is rewritten.
pub(super) type Number = [u8; 8];

/// The content of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalRecord {
    /// Always the first record.
    Header,
    /// The floor of keys without a replay memory.
    CommonFloor(Timestamp),
    /// The same for one-time passwords.
    CodesFloor(Timestamp),
    /// A key's floor in a replay domain, and the highest timestamp accepted there.
    KeyFloor(Fingerprint, ReplayDomain, Timestamp, Timestamp),
    /// An accepted knock.
    Accepted(Acceptance),
    /// The counter of the latest accepted knock of a key, and the knock's timestamp.
    Counter(Fingerprint, Timestamp, FidoCounter),
    /// From where the last authorized knock of a key came.
    Source(Fingerprint, LastSource),
    /// The end mark; nothing follows.
    End,
}

/// The result of reading a journal.
#[derive(Debug)]
pub(super) enum JournalContent {
    /// Complete.
    Whole(ReplayMemory),
    /// Complete except for its end: the last write was incomplete, or the file was truncated. Acceptances can be
    /// missing.
    Torn(ReplayMemory),
    /// Nothing, or only a header.
    Empty,
    /// Damaged.
    Damaged,
}

/// Encodes a record for its position in the journal.
pub(super) fn record(entry: JournalRecord, number: &Number, place: u64) -> [u8; RECORD] {
    let zero = Timestamp::default();
    let (kind, key, timestamp, floor, id) = match entry {
        JournalRecord::Header => (1, *number, zero, zero, *FORMAT),
        JournalRecord::CommonFloor(floor) => (2, [0; 8], zero, floor, [0; 12]),
        JournalRecord::CodesFloor(floor) => (10, [0; 8], zero, floor, [0; 12]),
        JournalRecord::KeyFloor(key, domain, floor, high) => {
            (kind_of_floor(domain), *key.as_bytes(), high, floor, [0; 12])
        }
        JournalRecord::Accepted(Acceptance { key, timestamp, id, floor, counter: Some(counter), .. }) => {
            let floor = with_counter(timestamp, floor, counter);
            (ACCEPTED_WITH_COUNTER, *key.as_bytes(), timestamp, floor, id)
        }
        JournalRecord::Accepted(Acceptance { key, domain, timestamp, id, floor, counter: None }) => {
            (kind_of_acceptance(domain), *key.as_bytes(), timestamp, floor, id)
        }
        JournalRecord::Counter(key, timestamp, counter) => {
            let floor = with_counter(timestamp, timestamp, counter);
            (COUNTER, *key.as_bytes(), timestamp, floor, [0; 12])
        }
        JournalRecord::Source(key, LastSource { timestamp, address }) => {
            let (high, low) = halves(address);
            (SOURCE, *key.as_bytes(), timestamp, high, low)
        }
        JournalRecord::End => (5, [0; 8], zero, zero, [0; 12]),
    };
    let public_key = match entry {
        JournalRecord::Accepted(Acceptance { counter: Some(counter), .. })
        | JournalRecord::Counter(.., counter) => counter.key,
        _ => [0; 3],
    };
    let mut bytes = [0; RECORD];
    let (timestamp, floor) = (timestamp.as_millis().to_be_bytes(), floor.as_millis().to_be_bytes());
    let parts: [&[u8]; 6] = [&[kind], &key, &timestamp, &floor, &id, &public_key];
    let mut room = bytes.iter_mut();
    for (byte, room) in parts.into_iter().flatten().zip(room.by_ref()) {
        *room = *byte;
    }
    let sum = sum(&bytes, number, place);
    for (byte, room) in sum.iter().zip(bytes.iter_mut().skip(SUM)) {
        *room = *byte;
    }
    bytes
}

/// The eight bytes at offset 17 of a record with a counter. A floor that is further away than 32 bits can express is
/// raised, which is safe.
fn with_counter(timestamp: Timestamp, floor: Timestamp, counter: FidoCounter) -> Timestamp {
    let below = timestamp.as_millis().saturating_sub(floor.as_millis());
    let below = u32::try_from(below).unwrap_or(u32::MAX);
    Timestamp::from_millis(u64::from(below) << 32 | u64::from(counter.value))
}

/// The bytes at offset 17 of the record of an address.
fn halves(address: IpAddr) -> (Timestamp, [u8; 12]) {
    let bits = mapped(address).to_bits();
    let [.., a, b, c, d, e, f, g, h] = bits.to_be_bytes();
    let high = u64::try_from(bits >> 64).unwrap_or_default();
    (Timestamp::from_millis(high), [a, b, c, d, e, f, g, h, 0, 0, 0, 0])
}

fn from_halves(high: Timestamp, [a, b, c, d, e, f, g, h, ..]: [u8; 12]) -> IpAddr {
    let low = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    canonical(Ipv6Addr::from_bits(u128::from(high.as_millis()) << 64 | u128::from(low)).into())
}

const fn kind_of_floor(domain: ReplayDomain) -> u8 {
    match domain {
        ReplayDomain::Datagrams => 3,
        ReplayDomain::Ports => 6,
        ReplayDomain::Codes => 8,
    }
}

const fn kind_of_acceptance(domain: ReplayDomain) -> u8 {
    match domain {
        ReplayDomain::Datagrams => 4,
        ReplayDomain::Ports => 7,
        ReplayDomain::Codes => 9,
    }
}

/// Encodes a complete journal of `memory`. Also returns the number of records without the end mark.
pub(super) fn whole(memory: &ReplayMemory, number: &Number) -> (Vec<u8>, u64) {
    let codes = Some(memory.codes_floor()).filter(|floor| *floor > Timestamp::default());
    let entries = [JournalRecord::Header, JournalRecord::CommonFloor(memory.floor())]
        .into_iter()
        .chain(codes.map(JournalRecord::CodesFloor))
        .chain(
            memory
                .floors()
                .map(|(key, domain, floor, high)| JournalRecord::KeyFloor(key, domain, floor, high)),
        )
        .chain(memory.acceptances().map(JournalRecord::Accepted))
        .chain(
            memory
                .counters()
                .map(|(key, timestamp, counter)| JournalRecord::Counter(key, timestamp, counter)),
        )
        .chain(memory.sources().iter().map(|(key, source)| JournalRecord::Source(key, source)));
    let mut bytes = Vec::new();
    let mut count = 0;
    for (place, entry) in (0..).zip(entries) {
        bytes.extend(record(entry, number, place));
        count = place;
    }
    let count = count.saturating_add(1);
    bytes.extend(record(JournalRecord::End, number, count));
    (bytes, count)
}

/// Encodes records and a new end mark, to be written over the end mark at `place`. Also returns the position of the new
/// end mark.
pub(super) fn appended(
    entries: impl IntoIterator<Item = JournalRecord>,
    number: &Number,
    place: u64,
) -> (Vec<u8>, u64) {
    let mut bytes = Vec::with_capacity(RECORD.saturating_mul(2));
    let mut next = place;
    for entry in entries {
        bytes.extend(record(entry, number, next));
        next = next.saturating_add(1);
    }
    bytes.extend(record(JournalRecord::End, number, next));
    (bytes, next)
}

/// Reads a journal. Accepts any bytes.
pub(super) fn read(bytes: &[u8]) -> JournalContent {
    let bytes = without_room(bytes);
    let (records, rest) = bytes.as_chunks::<RECORD>();
    let Some((first, others)) = records.split_first() else {
        return if bytes.is_empty() { JournalContent::Empty } else { JournalContent::Damaged };
    };
    let Some(number) = header(first) else { return JournalContent::Damaged };
    let mut memory = ReplayMemory::new(Timestamp::default());
    let mut entries = 0_usize;
    for (place, bytes) in (1..).zip(others) {
        let left = others.len().saturating_sub(entries);
        match entry(bytes, &number, place) {
            Some(JournalRecord::End) if left == 1 && rest.is_empty() => return JournalContent::Whole(memory),
            Some(JournalRecord::CommonFloor(floor)) => memory.restore_start(floor, Timestamp::default()),
            Some(JournalRecord::CodesFloor(floor)) => memory.restore_start(Timestamp::default(), floor),
            Some(JournalRecord::KeyFloor(key, domain, floor, high)) => {
                memory.restore_floor(key, domain, floor, high)
            }
            Some(JournalRecord::Accepted(acceptance)) => memory.restore(&acceptance),
            Some(JournalRecord::Counter(key, timestamp, counter)) => {
                memory.restore_counter(key, timestamp, counter)
            }
            Some(JournalRecord::Source(key, source)) => memory.sources_mut().store(key, source),
            // The last write, a record and the end mark, may have been interrupted at any byte.
            None if left <= 2 && rest.is_empty() || left <= 1 => return JournalContent::Torn(memory),
            Some(JournalRecord::Header | JournalRecord::End) | None => return JournalContent::Damaged,
        }
        entries = entries.saturating_add(1);
    }
    if entries == 0 && rest.is_empty() { JournalContent::Empty } else { JournalContent::Torn(memory) }
}

/// Removes the padding. A record can end with zeros, but never consists of zeros only.
fn without_room(bytes: &[u8]) -> &[u8] {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    bytes.get(..used.next_multiple_of(RECORD)).unwrap_or(bytes)
}

fn header(bytes: &[u8; RECORD]) -> Option<Number> {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8()?;
    let number = *reader.array()?;
    (kind == 1 && record(JournalRecord::Header, &number, 0) == *bytes).then_some(number)
}

fn entry(bytes: &[u8; RECORD], number: &Number, place: u64) -> Option<JournalRecord> {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8()?;
    let key = Fingerprint::from_bytes(*reader.array()?);
    let timestamp = Timestamp::from_millis(reader.u64()?);
    let floor = Timestamp::from_millis(reader.u64()?);
    let id = *reader.array()?;
    let public_key = *reader.array()?;
    // Only in records with a counter.
    let [b0, b1, b2, b3, c0, c1, c2, c3] = floor.as_millis().to_be_bytes();
    let below = u64::from(u32::from_be_bytes([b0, b1, b2, b3]));
    let counter = FidoCounter { key: public_key, value: u32::from_be_bytes([c0, c1, c2, c3]) };
    let accepted =
        |domain| JournalRecord::Accepted(Acceptance { key, domain, timestamp, id, floor, counter: None });
    let entry = match kind {
        2 => JournalRecord::CommonFloor(floor),
        3 => JournalRecord::KeyFloor(key, ReplayDomain::Datagrams, floor, timestamp),
        4 => accepted(ReplayDomain::Datagrams),
        5 => JournalRecord::End,
        6 => JournalRecord::KeyFloor(key, ReplayDomain::Ports, floor, timestamp),
        7 => accepted(ReplayDomain::Ports),
        8 => JournalRecord::KeyFloor(key, ReplayDomain::Codes, floor, timestamp),
        9 => accepted(ReplayDomain::Codes),
        10 => JournalRecord::CodesFloor(floor),
        ACCEPTED_WITH_COUNTER => {
            let floor = Timestamp::from_millis(timestamp.as_millis().saturating_sub(below));
            let domain = ReplayDomain::Datagrams;
            JournalRecord::Accepted(Acceptance { key, domain, timestamp, id, floor, counter: Some(counter) })
        }
        COUNTER => JournalRecord::Counter(key, timestamp, counter),
        SOURCE => JournalRecord::Source(key, LastSource { timestamp, address: from_halves(floor, id) }),
        _ => return None,
    };
    // Encoding the entry must give the same bytes, including the checksum.
    (record(entry, number, place) == *bytes).then_some(entry)
}

fn sum(bytes: &[u8; RECORD], number: &Number, place: u64) -> [u8; 8] {
    let checked = match bytes.first() {
        Some(&(ACCEPTED_WITH_COUNTER | COUNTER)) => CHECKED_WITH_COUNTER,
        _ => CHECKED,
    };
    checksum(&[number, &place.to_be_bytes(), bytes.get(..checked).unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NUMBER: Number = [7; 8];
    const WINDOW: Duration = Duration::from_secs(30);

    /// Assigns a replay domain to each client.
    fn domain(client: u8) -> ReplayDomain {
        [ReplayDomain::Datagrams, ReplayDomain::Ports, ReplayDomain::Codes][usize::from(client % 3)]
    }

    fn key(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 8])
    }

    /// A journal as a daemon leaves it: written completely, then appended to.
    fn journal(knocks: &[(u8, u64, u8)]) -> (Vec<u8>, ReplayMemory) {
        let mut memory = ReplayMemory::new(Timestamp::from_millis(1_000));
        let (mut bytes, mut place) = whole(&memory, &NUMBER);
        for &(client, timestamp, id) in knocks {
            let timestamp = Timestamp::from_millis(timestamp);
            if let Ok(mut acceptance) =
                memory.accept(key(client / 3), domain(client), timestamp, [id; 12], WINDOW)
            {
                // Every second knock of a client with datagrams is signed by a device.
                if client % 3 == 0 && id % 2 == 0 {
                    memory.store_counter(&mut acceptance, FidoCounter { key: [client; 3], value: id.into() });
                }
                bytes.truncate(bytes.len() - RECORD);
                let (more, next) = appended([JournalRecord::Accepted(acceptance)], &NUMBER, place);
                bytes.extend(more);
                place = next;
            }
        }
        (bytes, memory)
    }

    /// Whether `other` refuses everything that `memory` refuses.
    fn refuses_as_much(other: &ReplayMemory, memory: &ReplayMemory) -> bool {
        memory.acceptances().all(|a| other.check(a.key, a.domain, a.timestamp, &a.id).is_err())
            && memory
                .floors()
                .all(|(key, domain, floor, _)| other.check(key, domain, floor, &[0xEE; 12]).is_err())
            && other.check(key(99), ReplayDomain::Ports, memory.floor(), &[0xEE; 12]).is_err()
    }

    #[test]
    fn every_changed_bit_and_every_truncation_is_detected() {
        let (bytes, memory) = journal(&[(0, 40_000, 4), (1, 50_000, 1), (2, 60_000, 2), (1, 55_000, 3)]);
        assert!(matches!(read(&bytes), JournalContent::Whole(read) if refuses_as_much(&read, &memory)));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // In the last two records it could be an incomplete write.
            let late = bit / 8 >= bytes.len() - 2 * RECORD;
            let content = read(&changed);
            assert!(
                matches!(content, JournalContent::Damaged)
                    || late && matches!(content, JournalContent::Torn(_)),
                "bit {bit}"
            );
        }
        for length in 0..bytes.len() {
            let content = read(&bytes[..length]);
            assert!(!matches!(content, JournalContent::Whole(_)), "length {length}");
            assert!(!matches!(content, JournalContent::Empty) || length <= RECORD, "length {length}");
        }
        // A process that is killed during a write leaves a part of it, over the previous end mark and zeros.
        let (short, _) = journal(&[(1, 50_000, 1), (2, 60_000, 2)]);
        for written in 0..=2 * RECORD {
            let mut torn = [short.as_slice(), &[0; 5 * RECORD]].concat();
            let from = short.len() - RECORD;
            torn[from..from + written].copy_from_slice(&bytes[from..from + written]);
            let content = read(&torn);
            // The checksum of an end mark or record can end with zeros.
            let whole = matches!(&content, JournalContent::Whole(_));
            assert!(whole == (written == 0) || written > 2 * RECORD - 8, "{written} bytes");
            assert!(whole || matches!(content, JournalContent::Torn(_)), "{written} bytes");
        }
    }

    #[test]
    fn zeros_after_the_end_mark_are_ignored_and_other_bytes_are_damage() {
        let (bytes, memory) = journal(&[(1, 50_000, 1), (2, 60_000, 2), (1, 55_000, 3)]);
        for room in [1, 5, 47, 48, 49, 10 * RECORD] {
            let padded = [bytes.clone(), vec![0; room]].concat();
            assert!(
                matches!(read(&padded), JournalContent::Whole(read) if refuses_as_much(&read, &memory)),
                "{room}"
            );
            for bit in bytes.len() * 8..padded.len() * 8 {
                let mut changed = padded.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    !matches!(read(&changed), JournalContent::Whole(_) | JournalContent::Empty),
                    "{room}, bit {bit}"
                );
            }
        }
        assert!(matches!(read(&[0; 4 * RECORD]), JournalContent::Empty));
    }

    #[test]
    fn a_journal_of_a_version_that_supported_only_datagrams_is_read() {
        let JournalContent::Whole(memory) = read(include_bytes!("samples/datagrams.journal")) else {
            panic!("not complete")
        };
        let accepted: Vec<_> = memory.acceptances().collect();
        assert!(!accepted.is_empty() && accepted.iter().all(|a| a.domain == ReplayDomain::Datagrams));
        for Acceptance { key, timestamp, id, .. } in accepted {
            assert!(memory.check(key, ReplayDomain::Datagrams, timestamp, &id).is_err());
            assert!(memory.check(key, ReplayDomain::Ports, timestamp, &id).is_ok(), "another replay domain");
            assert!(memory.check(key, ReplayDomain::Ports, memory.floor(), &id).is_err(), "the common floor");
        }
        assert!(memory.floors().all(|(_, domain, ..)| domain == ReplayDomain::Datagrams));
    }

    /// The sample was made by another program, from the format's description before there were counters.
    #[test]
    fn a_journal_of_a_version_without_counters_is_read_and_continued() {
        let sample = include_bytes!("samples/without-counters.journal");
        let JournalContent::Whole(mut memory) = read(sample) else { panic!("not complete") };
        let refused = |memory: &ReplayMemory, domain, key: u8, timestamp, id: u8| {
            memory.check(self::key(key), domain, Timestamp::from_millis(timestamp), &[id; 12]).is_err()
        };
        for (domain, key, timestamp, id) in [
            (ReplayDomain::Datagrams, 1, 90_000, 1),
            (ReplayDomain::Datagrams, 1, 95_000, 3),
            (ReplayDomain::Datagrams, 1, 35_000, 9),
            (ReplayDomain::Ports, 1, 60_000, 2),
            (ReplayDomain::Codes, 2, 60_000, 0),
            (ReplayDomain::Datagrams, 9, 1_000, 9),
            (ReplayDomain::Codes, 9, 2_000, 9),
        ] {
            assert!(refused(&memory, domain, key, timestamp, id), "{domain:?} {key} {timestamp}");
        }
        assert!(!refused(&memory, ReplayDomain::Datagrams, 1, 35_001, 9));
        assert_eq!(memory.counters().count(), 0);

        let counter = FidoCounter { key: *b"pub", value: 7 };
        let mut acceptance = memory
            .accept(key(1), ReplayDomain::Datagrams, Timestamp::from_millis(96_000), [4; 12], WINDOW)
            .unwrap();
        memory.store_counter(&mut acceptance, counter);
        let number = sample[1..9].try_into().unwrap();
        let (more, _) = appended([JournalRecord::Accepted(acceptance)], &number, 10);
        let continued = [&sample[..10 * RECORD], &more].concat();
        let JournalContent::Whole(read) = read(&continued) else { panic!("not complete") };
        let counters: Vec<_> = read.counters().collect();
        assert_eq!(counters, [(key(1), Timestamp::from_millis(96_000), counter)]);
        assert!(refused(&read, ReplayDomain::Datagrams, 1, 96_000, 4));
        assert!(refused(&read, ReplayDomain::Datagrams, 1, 36_000, 9), "the floor has risen");
    }

    proptest! {
        #[test]
        fn counters_are_restored_from_appended_and_from_rewritten_journals(
            knocks in proptest::collection::vec((0_u8..3, 0_u64..400_000, any::<u8>(), any::<u32>()), 0..60),
        ) {
            let mut memory = ReplayMemory::new(Timestamp::from_millis(1_000));
            let (mut bytes, mut place) = whole(&memory, &NUMBER);
            for (client, timestamp, id, value) in knocks {
                let (key, at) = (key(client / 2), Timestamp::from_millis(timestamp));
                let accepted = memory.accept(key, ReplayDomain::Datagrams, at, [id; 12], WINDOW);
                let Ok(mut acceptance) = accepted else { continue };
                // One client has no device, and one key two devices.
                if client > 0 {
                    memory.store_counter(&mut acceptance, FidoCounter { key: [client; 3], value });
                }
                bytes.truncate(bytes.len() - RECORD);
                let (more, next) = appended([JournalRecord::Accepted(acceptance)], &NUMBER, place);
                bytes.extend(more);
                place = next;
            }
            for bytes in [bytes, whole(&memory, &NUMBER).0] {
                let JournalContent::Whole(read) = read(&bytes) else { panic!("not complete") };
                prop_assert!(read.counters().eq(memory.counters()));
                prop_assert!(refuses_as_much(&read, &memory) && refuses_as_much(&memory, &read));
                let mut floors = [&read, &memory].map(|memory| memory.floors().collect::<Vec<_>>());
                floors.iter_mut().for_each(|floors| floors.sort());
                prop_assert_eq!(&floors[0], &floors[1]);
            }
        }
    }

    proptest! {
        /// The oracle is the list of all grants: the last one of a key counts.
        #[test]
        fn addresses_are_restored_from_appended_and_from_rewritten_journals(
            grants in proptest::collection::vec((0_u8..4, 0_u64..400_000, any::<IpAddr>(), any::<bool>()), 0..60),
        ) {
            let mut memory = ReplayMemory::new(Timestamp::from_millis(1_000));
            let (mut bytes, mut place) = whole(&memory, &NUMBER);
            let mut all: Vec<(u8, LastSource)> = Vec::new();
            for (n, (client, timestamp, address, is_new)) in (0_u8..).zip(grants) {
                let (key, timestamp) = (key(client), Timestamp::from_millis(timestamp));
                let mut entries = Vec::new();
                let accepted = memory.accept(key, ReplayDomain::Datagrams, timestamp, [n; 12], WINDOW);
                entries.extend(accepted.ok().map(JournalRecord::Accepted));
                if is_new {
                    let source = LastSource { timestamp, address: canonical(address) };
                    memory.sources_mut().store(key, source);
                    entries.push(JournalRecord::Source(key, source));
                    all.push((client, source));
                }
                bytes.truncate(bytes.len() - RECORD);
                let (more, next) = appended(entries, &NUMBER, place);
                bytes.extend(more);
                place = next;
            }
            for bytes in [bytes, whole(&memory, &NUMBER).0] {
                let JournalContent::Whole(read) = read(&bytes) else { panic!("not complete") };
                for client in 0..5 {
                    let last = all.iter().rev().find(|(of, _)| *of == client).map(|(_, source)| *source);
                    prop_assert_eq!(read.sources().of(key(client)), last);
                }
                prop_assert!(refuses_as_much(&read, &memory) && refuses_as_much(&memory, &read));
            }
            // An address is written again only once for each key.
            let JournalContent::Whole(read) = read(&whole(&memory, &NUMBER).0) else { panic!("not complete") };
            prop_assert_eq!(whole(&read, &NUMBER).1, whole(&memory, &NUMBER).1);
        }
    }

    proptest! {
        #[test]
        fn a_written_memory_is_restored_by_reading(
            knocks in proptest::collection::vec((0_u8..4, 0_u64..200_000, any::<u8>()), 0..400),
        ) {
            let (bytes, memory) = journal(&knocks);
            let JournalContent::Whole(read) = read(&bytes) else { panic!("not complete") };
            prop_assert!(refuses_as_much(&read, &memory));
            prop_assert_eq!(read.highest(), memory.highest());
            // Also after writing it again.
            let (again, _) = whole(&read, &[8; 8]);
            let JournalContent::Whole(again) = super::read(&again) else { panic!("not complete") };
            prop_assert!(refuses_as_much(&again, &memory));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
