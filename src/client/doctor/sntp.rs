//! Compares the local clock with an NTP server: one datagram each way (SNTP, RFC 4330; the header is that of RFC 5905).
//! Accurate to a fraction of the round trip, which is enough for a window of seconds. Never sets the clock.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::knock::route::Route;
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::crypto::random;
use spa_knock_core::knock::Timestamp;

/// The NTP port.
pub(in crate::client) const PORT: u16 = 123;
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The header, without extensions.
const LENGTH: usize = 48;
/// First byte of a query: leap indicator 0, version 4, mode 3 (client).
const QUERY: u8 = 0o043;
/// Seconds from 1900, the start of NTP's first era, to 1970.
const EPOCH: u64 = 2_208_988_800;

/// The difference between the local clock and the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum ClockDifference {
    /// The local clock is ahead by this time.
    Ahead(Duration),
    /// The local clock is behind by this time.
    Behind(Duration),
}

/// Queries the server at this address.
///
/// # Errors
/// Human-readable text: why there is no result.
pub(in crate::client) fn query(server: SocketAddr) -> Result<ClockDifference, String> {
    // Instead of the local time, which the server does not need (draft-ietf-ntp-data-minimization). An attacker who
    // does not observe this datagram cannot forge the answer.
    let cookie: [u8; 8] = random().map_err(|error| error.to_string())?;
    let route = Route::to(server).map_err(|error| io_error_text(&error))?;
    let mut query = [0; LENGTH];
    let [first, .., a, b, c, d, e, f, g, h] = &mut query;
    *first = QUERY;
    [*a, *b, *c, *d, *e, *f, *g, *h] = cookie;
    let (sent, begun) = (clock::wall(), clock::steady());
    route.socket.send(&query).map_err(|error| io_error_text(&error))?;
    let end = begun.plus(PATIENCE);
    loop {
        let left = end.since(clock::steady());
        if left.is_zero() {
            return Err(format!("no reply within {} s", PATIENCE.as_secs()));
        }
        route.socket.set_read_timeout(Some(left)).map_err(|error| io_error_text(&error))?;
        let mut answer = [0; LENGTH];
        let Ok(length) = route.socket.recv(&mut answer) else { continue };
        let trip = clock::steady().since(begun);
        if length == LENGTH
            && let Some(read) = SntpReply::read(&answer, cookie)
        {
            return Ok(read?.difference(sent, trip));
        }
    }
}

/// The relevant fields of an answer: when the query arrived, and when the answer was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SntpReply {
    received: Timestamp,
    sent: Timestamp,
}

impl SntpReply {
    /// Parses an answer: none if it does not belong to this query, an error if it does but is unusable.
    fn read(bytes: &[u8; LENGTH], cookie: [u8; 8]) -> Option<Result<Self, String>> {
        let [first, stratum, ..] = *bytes;
        let (leap, mode) = (first >> 6, first & 0o7);
        let field = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied();
        if mode != 4 || field(24)? != cookie {
            return None;
        }
        if leap == 3 || !(1..=15).contains(&stratum) {
            return Some(Err("its clock is not set, or it refuses to reply (kiss of death)".to_owned()));
        }
        let (Some(received), Some(sent)) = (instant(field(32)?), instant(field(40)?)) else {
            return Some(Err("it reports a time before 1970".to_owned()));
        };
        Some(Ok(Self { received, sent }))
    }

    /// `((T2 - T1) + (T3 - T4)) / 2` of RFC 4330, with T4 calculated as T1 plus the round trip, so that setting the
    /// local clock in the meantime has no effect.
    fn difference(self, ours: Timestamp, trip: Duration) -> ClockDifference {
        let milliseconds = |time: Timestamp| i128::from(time.as_millis());
        let trip = i128::try_from(trip.as_millis()).unwrap_or(i128::MAX);
        let theirs = milliseconds(self.received).saturating_add(milliseconds(self.sent));
        let ours = milliseconds(ours).saturating_mul(2).saturating_add(trip);
        let behind = theirs.saturating_sub(ours).checked_div(2).unwrap_or(0);
        let size = Duration::from_millis(u64::try_from(behind.unsigned_abs()).unwrap_or(u64::MAX));
        if behind > 0 { ClockDifference::Behind(size) } else { ClockDifference::Ahead(size) }
    }
}

impl ClockDifference {
    /// The size of the difference.
    pub(in crate::client) const fn size(self) -> Duration {
        match self {
            Self::Ahead(size) | Self::Behind(size) => size,
        }
    }
}

/// Converts an NTP timestamp: seconds since 1900 and a fraction, big-endian. A small number of seconds belongs to the
/// era that begins in 2036 (RFC 4330, section 3).
fn instant(field: [u8; 8]) -> Option<Timestamp> {
    const ERA: u64 = 1 << 32;
    let [a, b, c, d, fraction @ ..] = field;
    let seconds = u64::from(u32::from_be_bytes([a, b, c, d]));
    let since_1900 = if a & 0x80 == 0 { seconds.saturating_add(ERA) } else { seconds };
    let ms = u64::from(u32::from_be_bytes(fraction)).saturating_mul(1000) >> 32;
    let ms = since_1900.checked_sub(EPOCH)?.checked_mul(1000)?.checked_add(ms)?;
    Some(Timestamp::default().plus(Duration::from_millis(ms)))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const COOKIE: [u8; 8] = *b"a cookie";

    /// An NTP timestamp of this many milliseconds since 1970.
    fn field(ms: u64) -> [u8; 8] {
        let seconds = u32::try_from((ms / 1000 + EPOCH) % (1 << 32)).unwrap();
        let fraction = u32::try_from(((ms % 1000) << 32).div_ceil(1000)).unwrap();
        [seconds.to_be_bytes(), fraction.to_be_bytes()].concat().try_into().unwrap()
    }

    fn answer(received: u64, sent: u64) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        [bytes[0], bytes[1]] = [0o044, 2];
        bytes[24..32].copy_from_slice(&COOKIE);
        bytes[32..40].copy_from_slice(&field(received));
        bytes[40..].copy_from_slice(&field(sent));
        bytes
    }

    #[test]
    fn the_difference_is_calculated_without_the_round_trip() {
        let read = SntpReply::read(&answer(1_700_000_010_050, 1_700_000_010_060), COOKIE).unwrap().unwrap();
        let ours = Timestamp::from_millis(1_700_000_000_000);
        let trip = Duration::from_millis(110);
        assert_eq!(read.difference(ours, trip), ClockDifference::Behind(Duration::from_secs(10)));
        let ours = Timestamp::from_millis(1_700_000_020_000);
        assert_eq!(read.difference(ours, trip), ClockDifference::Ahead(Duration::from_secs(10)));
    }

    #[test]
    fn an_answer_to_another_query_is_ignored_and_a_server_without_a_clock_is_not_believed() {
        let good = answer(1, 1);
        let with = |place: usize, byte: u8| {
            let mut bytes = good;
            bytes[place] = byte;
            SntpReply::read(&bytes, COOKIE)
        };
        assert!(with(2, 9).unwrap().is_ok());
        assert_eq!(with(0, 0o043), None, "a query");
        assert_eq!(with(24, b'b'), None, "with another cookie");
        for (place, byte) in [(0, 0o344), (1, 0), (1, 16)] {
            assert!(with(place, byte).unwrap().is_err(), "{place} {byte}");
        }
        assert!(with(32, 0x80).unwrap().is_err(), "1968");
    }

    #[test]
    fn a_query_is_one_datagram() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let served = thread::spawn(move || {
            let mut query = [0; 64];
            let (length, from) = server.recv_from(&mut query).unwrap();
            let later = clock::wall().plus(Duration::from_secs(3600)).as_millis();
            let mut bytes = answer(later, later);
            bytes[24..32].copy_from_slice(&query[40..48]);
            server.send_to(b"nonsense", from).unwrap();
            server.send_to(&bytes, from).unwrap();
            (length, query[0])
        });
        let ClockDifference::Behind(size) = query(address).unwrap() else { panic!("an hour behind") };
        assert!(size.abs_diff(Duration::from_secs(3600)) < Duration::from_secs(2), "{size:?}");
        assert_eq!(served.join().unwrap(), (LENGTH, QUERY));
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_it_was_written_also_after_2036(ms in 0..4_000_000_000_000_u64) {
            // The highest bit determines the era, so the range is 1968 to 2104.
            prop_assume!(ms < 4_233_000_000_000);
            prop_assert_eq!(instant(field(ms)), Some(Timestamp::from_millis(ms)));
        }

        #[test]
        fn any_bytes_can_be_parsed(bytes: [u8; 32], more: [u8; 16], ours: u64, trip: u64) {
            let whole: [u8; LENGTH] = [bytes.as_slice(), &more].concat().try_into().unwrap();
            let cookie = whole[24..32].try_into().unwrap();
            if let Some(Ok(read)) = SntpReply::read(&whole, cookie) {
                let _ = read.difference(Timestamp::from_millis(ours), Duration::from_millis(trip));
            }
        }
    }
}
