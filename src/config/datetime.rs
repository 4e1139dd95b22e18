//! A point in time as a person writes it: a date, or an RFC 3339 time with its offset.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use spa_knock_core::knock::Timestamp;

/// A date (its start in UTC) or an RFC 3339 time, from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime(pub Timestamp);

/// The text is not a valid date or time. Displays the expected format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidInstant;

impl fmt::Display for InvalidInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write a time as 2027-01-31 or 2027-01-31T18:00:00+01:00")
    }
}

impl std::error::Error for InvalidInstant {}

impl FromStr for DateTime {
    type Err = InvalidInstant;

    fn from_str(text: &str) -> Result<Self, InvalidInstant> {
        if !text.contains(['T', 't', ' ']) {
            return utc(&format!("{text}T00:00:00")).map(Self);
        }
        let text = text.to_ascii_uppercase();
        if let Some(time) = text.strip_suffix('Z') {
            return utc(time).map(Self);
        }
        let (time, offset) =
            text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)).ok_or(InvalidInstant)?;
        let (hours, minutes) =
            offset.get(1..).and_then(|offset| offset.split_once(':')).ok_or(InvalidInstant)?;
        let offset_length = Duration::from_secs(
            two_digits(hours, 23)?
                .saturating_mul(3_600)
                .saturating_add(two_digits(minutes, 59)?.saturating_mul(60)),
        );
        let local = utc(time)?;
        match offset.as_bytes().first() {
            // East of Greenwich, local time is ahead of UTC.
            Some(b'+') => Ok(Self(local.minus(offset_length))),
            Some(b'-') => Ok(Self(local.plus(offset_length))),
            _ => Err(InvalidInstant),
        }
    }
}

fn utc(time: &str) -> Result<Timestamp, InvalidInstant> {
    let time = humantime::parse_rfc3339(&format!("{time}Z")).map_err(|_| InvalidInstant)?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| InvalidInstant)?;
    Ok(Timestamp::default().plus(since))
}

fn two_digits(text: &str, max: u64) -> Result<u64, InvalidInstant> {
    if text.len() != 2 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidInstant);
    }
    text.parse().ok().filter(|&number| number <= max).ok_or(InvalidInstant)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_date_or_a_time_with_an_offset_is_accepted() {
        for (text, seconds) in [
            ("1970-01-02", 86_400),
            ("2027-01-31", 1_801_353_600),
            ("2027-01-31T00:00:00Z", 1_801_353_600),
            ("2027-01-31t00:00:00z", 1_801_353_600),
            ("2027-01-31T01:30:00+01:30", 1_801_353_600),
            ("2027-01-30T23:00:00-01:00", 1_801_353_600),
            ("2027-01-31T00:00:00.000+00:00", 1_801_353_600),
        ] {
            assert_eq!(text.parse(), Ok(DateTime(Timestamp::from_millis(seconds * 1_000))), "{text}");
        }
        for text in [
            "",
            "T",
            "2027-02-29",
            "2027-1-31",
            "1969-12-31",
            "18:00:00",
            "2027-01-31T18:00:00",
            "2027-01-31T18:00:00+1:00",
            "2027-01-31T18:00:00+24:00",
            "2027-01-31T18:00:00*01:00",
            "90d",
        ] {
            assert_eq!(text.parse::<DateTime>(), Err(InvalidInstant), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_accepted_or_refused(text in ".{0,40}", near in "[0-9TZ+: .-]{15,30}") {
            let _ = text.parse::<DateTime>();
            let _ = near.parse::<DateTime>();
        }
    }
}
