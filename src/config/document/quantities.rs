//! Durations and sizes as written in a config.

use std::time::Duration;

/// Formats a duration for a config, in the largest unit that divides it: `30s`, `10m`, `365d`.
#[must_use]
pub fn written(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let unit = units.into_iter().find(|&(_, length)| seconds != 0 && seconds.is_multiple_of(length));
    match unit.and_then(|(name, length)| Some((name, seconds.checked_div(length)?))) {
        Some((name, count)) if duration.subsec_nanos() == 0 => format!("{count}{name}"),
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// Units of a size, largest first, with their size in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

pub(super) fn read_size(text: &str) -> Option<u64> {
    let (number, bytes) =
        SIZE_UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(bytes)
}

/// Formats a size in bytes for a config, in the largest unit that divides it.
pub(super) fn written_size(size: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, bytes)| size >= *bytes && size.is_multiple_of(*bytes));
    match unit.and_then(|(unit, bytes)| Some((size.checked_div(*bytes)?, unit))) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => format!("{size} bytes"),
    }
}
