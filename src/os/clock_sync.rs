//! Whether something keeps this host's clock right, as those say who know: systemd, which asks the kernel, or chrony.

use std::path::Path;
use std::time::Duration;

use super::files;
use super::process::spawn;

/// Both answer at once or not at all.
const LIMIT: Duration = Duration::from_secs(3);

/// What is known of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockSync {
    /// It is synchronised, says this one.
    Synchronized(&'static str),
    /// It is not.
    Unsynchronized,
    /// Nobody here can tell.
    Unknown,
}

/// Asks whether the clock is synchronised; takes a few seconds at most.
#[must_use]
pub fn of_clock() -> ClockSync {
    // adjtimex(2) would say it too, but there is no safe way to it here.
    if let Ok(said) = spawn::run_to_end("timedatectl", &["show", "-p", "NTPSynchronized"], "", LIMIT)
        && let Some(discipline) = systemd(&said)
    {
        return discipline;
    }
    if files::exists(Path::new("/run/systemd/timesync/synchronized")) {
        return ClockSync::Synchronized("systemd-timesyncd");
    }
    match spawn::run_to_end("chronyc", &["-n", "tracking"], "", LIMIT) {
        Ok(said) => chrony(&said),
        Err(_) => ClockSync::Unknown,
    }
}

fn systemd(said: &str) -> Option<ClockSync> {
    match said.trim() {
        "NTPSynchronized=yes" => Some(ClockSync::Synchronized("timedatectl")),
        "NTPSynchronized=no" => Some(ClockSync::Unsynchronized),
        _ => None,
    }
}

fn chrony(said: &str) -> ClockSync {
    let status = said.lines().find_map(|line| line.strip_prefix("Leap status")?.split_once(": "));
    match status.map(|(_, status)| status.trim()) {
        Some("Not synchronised") => ClockSync::Unsynchronized,
        Some(_) => ClockSync::Synchronized("chrony"),
        None => ClockSync::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_and_chrony_say_is_understood() {
        assert_eq!(systemd("NTPSynchronized=yes\n"), Some(ClockSync::Synchronized("timedatectl")));
        assert_eq!(systemd("NTPSynchronized=no\n"), Some(ClockSync::Unsynchronized));
        assert_eq!(systemd(""), None);
        let tracking = |status: &str| format!("Stratum         : 3\nLeap status     : {status}\n");
        assert_eq!(chrony(&tracking("Normal")), ClockSync::Synchronized("chrony"));
        assert_eq!(chrony(&tracking("Insert second")), ClockSync::Synchronized("chrony"));
        assert_eq!(chrony(&tracking("Not synchronised")), ClockSync::Unsynchronized);
        assert_eq!(chrony("506 Cannot talk to daemon\n"), ClockSync::Unknown);
    }
}
