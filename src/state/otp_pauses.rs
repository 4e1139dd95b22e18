//! The file of pauses that wrong one-time passwords have led to: a guesser who can have the daemon restarted gains nothing.
//! Written in the background, as a power loss that forgets the last pause gives a guesser five more tries and no more.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::error::StateError;
use spa_knock_core::auth::OtpPause;
use spa_knock_core::knock::{ClientName, Timestamp};

/// The pauses by client.
pub(super) type OtpPauses = BTreeMap<ClientName, OtpPause>;

/// The file's name in the state folder.
pub(super) const PAUSES: &str = "otp-pauses";
const FORMAT: &str = "spa-knock otp-pauses 1";

/// What is on record. A line that is not as it was written is passed over: it would keep a client out for a day, and
/// anyone who could change the file could as well remove it.
///
/// # Errors
/// When the file is there but cannot be read.
pub(super) fn remembered(disk: &impl Disk) -> Result<OtpPauses, StateError> {
    let bytes = disk.read(PAUSES)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().skip(1).filter_map(read_line).collect())
}

/// The file's text: client, number of pauses, and the end of the last one in milliseconds since 1970.
pub(super) fn text(pauses: &OtpPauses) -> String {
    let line = |(name, pause): (&ClientName, &OtpPause)| {
        format!("{name} {} {}\n", pause.count, pause.until.as_millis())
    };
    std::iter::once(format!("{FORMAT}\n")).chain(pauses.iter().map(line)).collect()
}

fn read_line(line: &str) -> Option<(ClientName, OtpPause)> {
    let mut words = line.split(' ');
    let name = words.next()?.parse().ok()?;
    let count = words.next()?.parse().ok()?;
    let until = Timestamp::from_millis(words.next()?.parse().ok()?);
    words.next().is_none().then_some((name, OtpPause { count, until }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::disk::Folder;

    #[test]
    fn pauses_are_read_as_they_were_written_and_other_lines_are_passed_over() {
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
