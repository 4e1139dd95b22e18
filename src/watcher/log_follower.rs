//! Follows the firewall's log for a watcher that reads packets from it: a separate process, which copies lines without
//! parsing them, and can do nothing else.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::capture::{Log, LogForm, LogSource, PacketLog};
use crate::os::files::tail::Follower;
use crate::os::process::{privileges, sandbox, spawn};
use crate::os::{files, host, log as os_log, stdio};

/// Maximum time for opening the log.
const START_MAX: Duration = Duration::from_secs(5);
/// The program that reads the journal.
pub(crate) const JOURNALCTL: &str = "journalctl";
/// Arguments for the kernel's entries of this boot only, one JSON object per line.
pub(crate) const JOURNAL: [&str; 5] = [
    "--dmesg",
    "--output=json",
    "--output-fields=_TRANSPORT,SYSLOG_FACILITY,MESSAGE",
    "--no-pager",
    "--quiet",
];
/// Maximum time for reading its last entry.
const READ_MAX: Duration = Duration::from_secs(3);
/// Arguments for following new entries.
const FOLLOW: [&str; 2] = ["--follow", "--lines=0"];

/// The first byte from the follower once it follows the log; otherwise it sends the reason why it cannot.
const READY: [u8; 1] = *b"\n";
/// Maximum length of a reason, in bytes.
const REASON_MAX: u64 = 400;

/// Starts the process that follows the log.
///
/// # Errors
/// Why that is not possible, as human-readable text.
pub(crate) fn open(log: PacketLog, interfaces: Vec<String>) -> Result<Log, String> {
    let (form, file, place) = match log.source {
        LogSource::Journal => (LogForm::Journal, None, "the journal".to_owned()),
        LogSource::File(path) => (LogForm::Syslog, Some(path.clone()), path.display().to_string()),
    };
    let error = |error: std::io::Error| format!("{place}: {}", files::io_error_text(&error));
    let (lines, theirs) = UnixStream::pair().map_err(error)?;
    // It exits when its output has no reader any more.
    spawn::start_to_read(ARGUMENT, file.as_deref(), theirs.into()).map_err(error)?;
    wait_until_it_follows(&lines, &place)?;
    Log::new(lines, form, log.prefix, interfaces, place.clone()).map_err(error)
}

fn wait_until_it_follows(mut lines: &UnixStream, place: &str) -> Result<(), String> {
    let mut first = [0; READY.len()];
    let begun = lines.set_read_timeout(Some(START_MAX)).and_then(|()| lines.read_exact(&mut first));
    begun.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => format!("{place}: the process that follows it has exited"),
        _ => format!("{place}: the process that follows it did not start within {} s", START_MAX.as_secs()),
    })?;
    if first == READY {
        return Ok(());
    }
    let mut reason = first.to_vec();
    // Even an incomplete reason is useful.
    let _ = lines.take(REASON_MAX).read_to_end(&mut reason);
    Err(String::from_utf8_lossy(&reason).into_owned())
}

/// The argument that starts a follower.
pub(super) const ARGUMENT: &str = "log-follower";

/// Runs the process that follows this file, or the journal. Exits when its output has no reader any more.
#[must_use]
pub(crate) fn main(path: Option<&Path>) -> ExitCode {
    os_log::start_without_waiting("spa-knock-watcher log");
    let Ok(mut out) = stdio::output() else { return ExitCode::FAILURE };
    let result = match path {
        Some(path) => follow(path, &out),
        None => follow_journal(&out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // If the watcher is gone, no one can receive the reason.
            let _ = out.write_all(reason.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn follow(path: &Path, out: &File) -> Result<(), String> {
    let plain = |error: std::io::Error| format!("{}: {}", path.display(), files::io_error_text(&error));
    privileges::read_only(privileges::reader_of(path)).map_err(plain)?;
    let mut follower = Follower::open(path).map_err(|error| error.to_string())?;
    // A link may lead to another folder.
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folders: Vec<PathBuf> =
        [path, &file].into_iter().filter_map(Path::parent).map(Path::to_owned).collect();
    // On a kernel without Landlock, only the change of user and the dropped privileges confine it.
    let _ = sandbox::only_read_in(&folders);
    if !follower.is_there() {
        log::warn!("{}: does not exist yet; waiting for it", path.display());
    }
    let mut lines = BufWriter::new(out);
    let mut write = || -> std::io::Result<()> {
        lines.write_all(&READY)?;
        loop {
            follower.copy(&mut lines)?;
            lines.flush()?;
            if !follower.wait(out)? {
                return Ok(());
            }
        }
    };
    match write() {
        // The output has no reader any more.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        // The watcher starts another follower, as a user who can read the file then.
        Err(error) => log::error!("{}", plain(error)),
        Ok(()) => {}
    }
    Ok(())
}

/// Files that belong to the journal (systemd-journald(8)); their permissions show which user can read it.
fn journals() -> Vec<PathBuf> {
    let machine = files::read_text(Path::new("/etc/machine-id")).unwrap_or_default();
    let of = |folder| Path::new(folder).join(machine.trim()).join("system.journal");
    ["/run/log/journal", "/var/log/journal"].into_iter().map(of).collect()
}

fn follow_journal(mut out: &File) -> Result<(), String> {
    if host::program(JOURNALCTL).is_none() {
        return Err(format!(
            "{JOURNALCTL}: not found\nhint: set packet-log to \"/var/log/kern.log\", or to another file that contains the kernel's log"
        ));
    }
    privileges::read_only(journals().iter().find_map(|file| privileges::reader_of(file)))
        .map_err(|error| files::io_error_text(&error))?;
    let args =
        |more: &[&'static str]| -> Vec<&str> { JOURNAL.into_iter().chain(more.iter().copied()).collect() };
    let last = spawn::run_to_end(JOURNALCTL, &args(&["--lines=1"]), "", READ_MAX);
    if last.map_err(|error| error.to_string())?.is_empty() {
        log::warn!("the journal: contains no kernel messages, or they are not readable");
    }
    out.write_all(&READY).map_err(|error| files::io_error_text(&error))?;
    let error = spawn::become_program(JOURNALCTL, &args(&FOLLOW));
    log::error!("{error}");
    Ok(())
}
