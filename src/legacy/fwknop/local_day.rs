//! Days in the time zone of this host.

use spa_knock_core::knock::Timestamp;

/// The start of a day in this host's time zone; none if there is no such day.
pub(super) fn start_of_day(year: u16, month: u8, day: u8) -> Option<Timestamp> {
    let [year, month, day] = [i16::try_from(year).ok()?, month.into(), day.into()];
    let (month, day) = (i8::try_from(month).ok()?, i8::try_from(day).ok()?);
    let date = jiff::civil::Date::new(year, month, day).ok()?;
    let start = date.to_zoned_datetime(jiff::tz::TimeZone::system()).ok()?;
    u64::try_from(start.timestamp().as_millisecond()).ok().map(Timestamp::from_millis)
}
