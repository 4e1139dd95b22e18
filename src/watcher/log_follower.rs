//! The firewall's log, for who reads packets from it: followed by a process of its own, which copies lines and
//! understands none, and can do nothing else.

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

/// How long opening the log may take.
const START_MAX: Duration = Duration::from_secs(5);
/// What reads the journal.
pub(crate) const JOURNALCTL: &str = "journalctl";
/// The kernel's entries of this boot alone, one JSON object a line.
pub(crate) const JOURNAL: [&str; 5] = [
    "--dmesg",
    "--output=json",
    "--output-fields=_TRANSPORT,SYSLOG_FACILITY,MESSAGE",
    "--no-pager",
    "--quiet",
];
/// How long its last entry may take.
const READ_MAX: Duration = Duration::from_secs(3);
/// From now on, as they come.
const FOLLOW: [&str; 2] = ["--follow", "--lines=0"];

/// What the follower says first, once it follows; else it says why not.
const READY: [u8; 1] = *b"\n";
/// What of a reason is read.
const REASON_MAX: u64 = 400;

/// Begins to follow it.
///
/// # Errors
/// Why that is not possible, for people.
pub(crate) fn open(log: PacketLog, interfaces: Vec<String>) -> Result<Log, String> {
    let (form, file, place) = match log.source {
        LogSource::Journal => (LogForm::Journal, None, "the journal".to_owned()),
        LogSource::File(path) => (LogForm::Syslog, Some(path.clone()), path.display().to_string()),
    };
    let error = |error: std::io::Error| format!("{place}: {}", files::io_error_text(&error));
    let (lines, theirs) = UnixStream::pair().map_err(error)?;
    // It ends when nobody reads it any more.
    spawn::start_to_read(ARGUMENT, file.as_deref(), theirs.into()).map_err(error)?;
    wait_until_it_follows(&lines, &place)?;
    Log::new(lines, form, log.prefix, interfaces, place.clone()).map_err(error)
}

fn wait_until_it_follows(mut lines: &UnixStream, place: &str) -> Result<(), String> {
    let mut first = [0; READY.len()];
    let begun = lines.set_read_timeout(Some(START_MAX)).and_then(|()| lines.read_exact(&mut first));
    begun.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => format!("{place}: the process that follows it has ended"),
        _ => format!("{place}: it is not followed after {} s", START_MAX.as_secs()),
    })?;
    if first == READY {
        return Ok(());
    }
    let mut reason = first.to_vec();
    // What was understood of it is better than nothing.
    let _ = lines.take(REASON_MAX).read_to_end(&mut reason);
    Err(String::from_utf8_lossy(&reason).into_owned())
}

/// The argument that starts a follower.
pub(super) const ARGUMENT: &str = "log-follower";

/// The process that follows: this file, or the journal. Ends when nobody reads its lines any more.
#[must_use]
pub(crate) fn main(path: Option<&Path>) -> ExitCode {
    os_log::start_without_waiting("spa-knock-watcher log");
    let Ok(mut out) = stdio::output() else { return ExitCode::FAILURE };
    let followed = match path {
        Some(path) => follow(path, &out),
        None => follow_journal(&out),
    };
    match followed {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // If nobody is there to be told, that is why it ends.
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
    // Where this kernel has none, its user and its rights are all that it has given up.
    let _ = sandbox::only_read_in(&folders);
    if !follower.is_there() {
        log::warn!("{}: not there yet; waiting for it", path.display());
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
        // Nobody reads it any more.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        // Another one is started in its place, as whoever can read it then.
        Err(error) => log::error!("{}", plain(error)),
        Ok(()) => {}
    }
    Ok(())
}

/// Where the journal may lie (systemd-journald(8)): what can be read of it says who can read it.
fn journals() -> Vec<PathBuf> {
    let machine = files::read_text(Path::new("/etc/machine-id")).unwrap_or_default();
    let of = |folder| Path::new(folder).join(machine.trim()).join("system.journal");
    ["/run/log/journal", "/var/log/journal"].into_iter().map(of).collect()
}

fn follow_journal(mut out: &File) -> Result<(), String> {
    if host::program(JOURNALCTL).is_none() {
        return Err(format!(
            "{JOURNALCTL}: not found\nhint: packet-log = \"/var/log/kern.log\", or another file that the kernel's log goes to"
        ));
    }
    privileges::read_only(journals().iter().find_map(|file| privileges::reader_of(file)))
        .map_err(|error| files::io_error_text(&error))?;
    let words =
        |more: &[&'static str]| -> Vec<&str> { JOURNAL.into_iter().chain(more.iter().copied()).collect() };
    let last = spawn::run_to_end(JOURNALCTL, &words(&["--lines=1"]), "", READ_MAX);
    if last.map_err(|error| error.to_string())?.is_empty() {
        log::warn!("the journal: nothing of the kernel's is there, or may be read");
    }
    out.write_all(&READY).map_err(|error| files::io_error_text(&error))?;
    let error = spawn::become_program(JOURNALCTL, &words(&FOLLOW));
    log::error!("{error}");
    Ok(())
}
