//! Reads the clocks. The only module that does.
#![allow(clippy::disallowed_methods, reason = "this is the place that the rule points to")]

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(feature = "daemon")]
use spa_knock_core::knock::BootTime;
use spa_knock_core::knock::{Now, Steady, Timestamp};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Both clocks, read now. A wall clock before 1970 reads as 1970.
#[must_use]
pub fn now() -> Now {
    Now { wall: wall(), steady: steady() }
}

/// The wall clock.
#[must_use]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::default().plus(since)
}

/// Time since the first reading in this process. Never goes backward.
#[must_use]
pub fn steady() -> Steady {
    Steady::from_duration(START.elapsed())
}

/// Time since the last boot, including time asleep. The same for all processes until the next boot.
#[cfg(feature = "daemon")]
#[must_use]
pub fn boot() -> BootTime {
    // It cannot fail for a clock that every kernel has had since 2.6.39.
    let since = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    BootTime::from_duration(since.unwrap_or_default())
}

/// The time `ms` milliseconds after boot, as stored in files of this boot.
#[cfg(feature = "daemon")]
#[must_use]
pub const fn boot_at(ms: u64) -> BootTime {
    BootTime::from_duration(Duration::from_millis(ms))
}

/// Formats a time as RFC 3339 in UTC with milliseconds. Times after the year 9999 become its last millisecond.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    /// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can express.
    const LAST: u64 = 253_402_300_799_999;
    let ms = time.as_millis().min(LAST);
    UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        .map_or_else(String::new, |time| humantime::format_rfc3339_millis(time).to_string())
}

/// Formats a time in this host's time zone, in a format of strftime(3). Empty if the time is out of range.
#[cfg(feature = "legacy")]
#[must_use]
pub fn local(time: Timestamp, format: &str) -> String {
    let zoned =
        i64::try_from(time.as_millis()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    zoned.map_or_else(String::new, |time| {
        time.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime(format).to_string()
    })
}
