//! Finds out whether this host's clock is synchronized, from systemd (which asks the kernel) or chrony.

use std::path::Path;
use std::time::Duration;

use super::files;
use super::process::spawn;

/// Both programs answer immediately or not at all.
const LIMIT: Duration = Duration::from_secs(3);

/// The state of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockSync {
    /// Synchronized, according to this program.
    Synchronized(&'static str),
    /// Not synchronized.
    Unsynchronized,
    /// No program on this host can report it.
    Unknown,
}

/// Finds out whether the clock is synchronized. Takes a few seconds at most.
#[must_use]
pub fn of_clock() -> ClockSync {
    // adjtimex(2) would report it too, but there is no safe interface to it here.
    if let Ok(output) = spawn::run_to_end("timedatectl", &["show", "-p", "NTPSynchronized"], "", LIMIT)
        && let Some(sync) = systemd(&output)
    {
        return sync;
    }
    if files::exists(Path::new("/run/systemd/timesync/synchronized")) {
        return ClockSync::Synchronized("systemd-timesyncd");
    }
    match spawn::run_to_end("chronyc", &["-n", "tracking"], "", LIMIT) {
        Ok(output) => chrony(&output),
        Err(_) => ClockSync::Unknown,
    }
}

fn systemd(output: &str) -> Option<ClockSync> {
    match output.trim() {
        "NTPSynchronized=yes" => Some(ClockSync::Synchronized("timedatectl")),
        "NTPSynchronized=no" => Some(ClockSync::Unsynchronized),
        _ => None,
    }
}

fn chrony(output: &str) -> ClockSync {
    let status = output.lines().find_map(|line| line.strip_prefix("Leap status")?.split_once(": "));
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
    fn the_output_of_systemd_and_chrony_is_parsed() {
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
