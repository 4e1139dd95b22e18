//! Parses the values of options, and checks their limits.

use std::time::Duration;

use clap::builder::RangedI64ValueParser;

use crate::client::ports::schedule::Gap;
use spa_knock_core::knock::{KnockRange, Protocol};

pub(super) fn port() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

pub(super) fn knock_range() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=i64::from(KnockRange::LOW_MAX))
}

pub(super) fn protocol(text: &str) -> Result<Protocol, &'static str> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("must be tcp or udp"),
    }
}

pub(super) fn gap(text: &str) -> Result<Duration, String> {
    let bare = if text == "0" { "0s" } else { text };
    let gap = humantime::parse_duration(bare).map_err(|_| "must be a duration such as 5ms, or 0")?;
    if gap > Gap::MAX {
        Err("must be at most 1s: the server forgets a port hit after 10s".to_owned())
    } else {
        Ok(gap)
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "must be a duration such as 30s, 5m or 1h30m")?;
    if time.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(time) }
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_secs(1) { Err("must be at least 1s".to_owned()) } else { Ok(time) }
}

pub(super) fn whole_seconds(text: &str) -> Result<u32, String> {
    let time = duration(text)?;
    if time.subsec_nanos() != 0 {
        return Err("must be a whole number of seconds".to_owned());
    }
    u32::try_from(time.as_secs()).map_err(|_| "must be at most 4294967295s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_a_grant_lasts_whole_seconds() {
        assert_eq!(whole_seconds("5m"), Ok(300));
        for wrong in ["", "30", "0s", "1500ms", "-1s", "150years"] {
            assert!(whole_seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
    }
}
