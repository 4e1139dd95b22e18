//! Times of OpenSSH's `expiry-time` (sshd(8)): in this host's time zone, or in UTC.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use spa_knock_core::knock::Timestamp;

/// Reads `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`; with a `Z` or `UTC` at its end in UTC, else in this host's time
/// zone. `None` for anything else, and for times before 1970.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    parse_in(text, TimeZone::system)
}

fn parse_in(text: &str, local: impl Fn() -> TimeZone) -> Option<Timestamp> {
    let without = |suffix: &str| {
        let (digits, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
        end.eq_ignore_ascii_case(suffix).then_some(digits)
    };
    let (digits, zone) = match without("Z").or_else(|| without("UTC")) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, local()),
    };
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |part| part.parse::<i8>().ok());
    let year = digits.get(..4)?.parse().ok()?;
    let date = DateTime::new(year, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?, 0);
    let ms = date.ok()?.to_zoned_datetime(zone).ok()?.timestamp().as_millisecond();
    u64::try_from(ms).ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hours east of Greenwich.
    fn seconds(text: &str) -> Option<u64> {
        let time = parse_in(text, || TimeZone::fixed(jiff::tz::offset(2)));
        time.map(|time| time.as_millis() / 1_000)
    }

    #[test]
    fn a_time_is_in_utc_or_in_the_time_zone_of_the_host() {
        for (text, time) in [
            ("20270131Z", 1_801_353_600),
            ("20270131z", 1_801_353_600),
            ("20270131UTC", 1_801_353_600),
            ("20270131", 1_801_346_400),
            ("202701310200", 1_801_353_600),
            ("20270131020001", 1_801_353_601),
            ("20270131000001Z", 1_801_353_601),
            ("20240229Z", 1_709_164_800),
        ] {
            assert_eq!(seconds(text), Some(time), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Z",
            "UTC",
            "2027013",
            "202701311",
            "2027013102",
            "20270131020001 ",
            "+0270131",
            "20270229",
            "20271301",
            "202701312460",
            "20270131025960",
            "19690101Z",
            "2027-01-31",
            "0x7fffffff",
            "٢٠٢٧٠١٣١",
            "forever",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
