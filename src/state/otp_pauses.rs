//! The file of pauses after wrong one-time passwords, so that a restart of the daemon does not help an attacker who
//! guesses. Written in the background: a power loss that loses the last pause gives the attacker only five more
//! guesses.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::error::StateError;
use spa_knock_core::auth::OtpPause;
use spa_knock_core::knock::{ClientName, Timestamp};

/// The pauses by client.
pub(super) type OtpPauses = BTreeMap<ClientName, OtpPause>;

/// The file's name in the state directory.
pub(super) const PAUSES: &str = "otp-pauses";
const FORMAT: &str = "spa-knock otp-pauses 1";

/// Reads the pauses. Ignores damaged lines: they could block a client for a day, and anyone who can change the file can
/// also remove it.
///
/// # Errors
/// If the file exists but cannot be read.
pub(super) fn remembered(disk: &impl Disk) -> Result<OtpPauses, StateError> {
    let bytes = disk.read(PAUSES)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().skip(1).filter_map(read_line).collect())
}

/// The file's text. Each line has the client, the number of pauses, and the end of the last pause in ms since 1970.
pub(super) fn text(pauses: &OtpPauses) -> String {
    let line = |(name, pause): (&ClientName, &OtpPause)| {
        format!("{name} {} {}\n", pause.count, pause.until.as_millis())
    };
    std::iter::once(format!("{FORMAT}\n")).chain(pauses.iter().map(line)).collect()
}

fn read_line(line: &str) -> Option<(ClientName, OtpPause)> {
    let mut fields = line.split(' ');
    let name = fields.next()?.parse().ok()?;
    let count = fields.next()?.parse().ok()?;
    let until = Timestamp::from_millis(fields.next()?.parse().ok()?);
    fields.next().is_none().then_some((name, OtpPause { count, until }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::disk::Folder;

    #[test]
    fn pauses_are_read_as_they_were_written_and_other_lines_are_ignored() {
        let scratch = tempfile::tempdir().unwrap();
        let disk = Folder::new(scratch.path());
        assert!(remembered(&disk).unwrap().is_empty(), "there is no file yet");
        let pause = |count, until| OtpPause { count, until: Timestamp::from_millis(until) };
        let pauses = OtpPauses::from([
            ("laptop".parse().unwrap(), pause(3, 1_795_331_877_123)),
            ("phone".parse().unwrap(), pause(1, 1_795_331_877_124)),
        ]);
        disk.replace(PAUSES, (text(&pauses) + "phone x 7\n\nlaptop 1\n").as_bytes()).unwrap();
        assert_eq!(remembered(&disk).unwrap(), pauses);
    }
}
