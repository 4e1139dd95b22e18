//! The file of use counts. It is fsynced before each action, so that neither kill -9 nor a power loss gives a use back.
//! The journal would not be sufficient: a power loss can remove any part of it.

use super::disk::Disk;
use super::error::StateError;
use spa_knock_core::auth::UseCounts;
use spa_knock_core::crypto::checksum_hex;

/// The file name in the state directory.
const USES: &str = "uses";
/// Disk space in bytes reserved for the next version.
const RESERVE: u64 = 4096;
const FORMAT: &str = "spa-knock uses 1\n";

/// Reads the use counts; empty if there is no file.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub(super) fn remembered(disk: &impl Disk) -> Result<UseCounts, StateError> {
    match disk.read(USES)? {
        None => Ok(UseCounts::default()),
        Some(bytes) => read(&bytes).ok_or_else(|| StateError::Uses(disk.place(USES))),
    }
}

/// Writes the use counts. After this returns, they survive a power loss.
///
/// # Errors
/// If that fails; the file then has the old or the new counts.
pub(super) fn record(disk: &impl Disk, counts: &UseCounts) -> Result<(), StateError> {
    disk.replace(USES, text(counts).as_bytes())?;
    Ok(())
}

/// Reserves disk space, so that use counts can be written when the disk is full. Without it, knocks that need them are
/// refused while the disk is full.
pub(super) fn reserve(disk: &impl Disk) {
    let written = match disk.read(USES) {
        Ok(None) => record(disk, &UseCounts::default()),
        _ => Ok(()),
    };
    if written.is_ok() {
        let _ = disk.reserve(USES, RESERVE);
    }
}

fn text(counts: &UseCounts) -> String {
    let lines = counts.iter().map(|(name, count)| format!("{name} {count}\n"));
    let body: String = std::iter::once(FORMAT.to_owned()).chain(lines).collect();
    let sum: String = checksum_hex(&[body.as_bytes()]);
    format!("{body}sum {sum}\n")
}

fn read(bytes: &[u8]) -> Option<UseCounts> {
    let written = std::str::from_utf8(bytes).ok()?;
    let mut counts = UseCounts::default();
    let mut lines = written.lines().skip(1).peekable();
    while let Some(line) = lines.next() {
        // The last line is the checksum, which is verified below.
        if lines.peek().is_some() {
            let (name, count) = line.split_once(' ')?;
            counts.set(name.parse().ok()?, count.parse().ok()?);
        }
    }
    (text(&counts) == written).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_they_were_written_and_any_change_is_detected() {
        let mut counts = UseCounts::default();
        assert_eq!(read(text(&counts).as_bytes()), Some(counts.clone()));
        counts.set("laptop".parse().unwrap(), 3);
        counts.set("sum".parse().unwrap(), u64::MAX);
        let text = text(&counts);
        assert_eq!(read(text.as_bytes()), Some(counts));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes), None, "bit {bit}");
            assert_eq!(read(&text.as_bytes()[..bit / 8]), None, "length {}", bit / 8);
        }
    }
}
