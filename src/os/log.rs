//! The daemon's log: lines on standard error, with priorities where systemd's journal reads them. If standard error is
//! not read, no process waits for it: lines without room are lost and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::outbox::{self, OnFailure, Outbox, Sink};
use super::{env, poll};

/// How many lines can wait for the thread.
const ROOM: usize = 1_024;
/// Maximum length of a line in bytes; the rest is cut off.
const LINE_MAX: usize = 16 << 10;
/// PIPE_BUF of pipe(7): a write of at most this size is atomic.
const PIPE_BUF: usize = 4_096;
/// How long a write may wait while there is no thread.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How long an exiting process waits for the thread.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// The thread's queue, once the thread is started.
static OUTBOX: OnceLock<Outbox<Vec<u8>, Stderr>> = OnceLock::new();
/// Lines lost without a thread, and how many of them have been reported.
static LOST: AtomicU64 = AtomicU64::new(0);
static REPORTED: AtomicU64 = AtomicU64::new(0);

struct Logger {
    name: &'static str,
    journal: bool,
    /// How long a write may wait without a thread.
    wait_max: Duration,
}

/// Starts logging to standard error, with the process's name in each line. `SPA_KNOCKD_LOG` (error, warn, info, debug,
/// trace) sets the lowest level; the default is info.
pub fn start(name: &'static str) {
    start_with(name, WAIT_MAX);
}

/// The same for a process that must never wait and cannot start threads.
pub fn start_without_waiting(name: &'static str) {
    // If this fails, a line is written if there was room for it a moment before, which is almost as good.
    let _ = reopen_stderr();
    start_with(name, Duration::ZERO);
}

/// Starts the writing thread. From then on, no caller waits for a write. Call it after privileges are dropped.
pub fn start_thread() {
    OUTBOX.get_or_init(|| Outbox::start(Stderr, ROOM, OnFailure::Drop));
}

/// Writes a line without a prefix, its line break included. Returns whether it was accepted.
pub fn write(line: &str) -> bool {
    put(line.as_bytes().to_vec(), WAIT_MAX)
}

/// Whether there is room for one more line.
#[must_use]
pub fn has_room() -> bool {
    OUTBOX.get().is_none_or(|outbox| outbox.has_room_for(1))
}

/// Number of lines lost since the start.
#[must_use]
pub fn lost() -> u64 {
    let of_thread = OUTBOX.get().map_or(0, |outbox| outbox.state().lost);
    LOST.load(Ordering::Relaxed).saturating_add(of_thread)
}

/// Waits until all lines are written, at most half a second.
pub fn flush() {
    if let Some(outbox) = OUTBOX.get() {
        outbox.flush(FLUSH_MAX);
    }
}

fn start_with(name: &'static str, wait_max: Duration) {
    let level = env::text("SPA_KNOCKD_LOG").and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::Info);
    let journal = env::text("JOURNAL_STREAM").is_some();
    // A second start fails and changes nothing: the first logger stays.
    if log::set_boxed_logger(Box::new(Logger { name, journal, wait_max })).is_ok() {
        log::set_max_level(level);
    }
}

/// Reopens a pipe or terminal as non-blocking. Setting the flag on the inherited descriptor would affect the other
/// processes that share it.
fn reopen_stderr() -> io::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(io::stderr())?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && kind != SFlag::S_IFCHR {
        return Ok(());
    }
    #[allow(clippy::disallowed_methods, reason = "not a file that a user names")]
    let ours = OpenOptions::new()
        .write(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open("/proc/self/fd/2")?;
    nix::unistd::dup2_stderr(ours).map_err(io::Error::from)
}

fn put(line: Vec<u8>, wait_max: Duration) -> bool {
    if let Some(outbox) = OUTBOX.get() {
        return outbox.push(line);
    }
    let lost = LOST.load(Ordering::Relaxed);
    let unreported = lost.saturating_sub(REPORTED.load(Ordering::Relaxed));
    if unreported > 0 && write_now(loss(unreported).as_bytes(), Duration::ZERO) {
        REPORTED.store(lost, Ordering::Relaxed);
    }
    let written = write_now(&line, wait_max);
    if !written {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    written
}

/// Writes a line if there is room for it within `wait_max`.
fn write_now(line: &[u8], wait_max: Duration) -> bool {
    let cut = line.len() > PIPE_BUF;
    let fits = if cut { line.get(..PIPE_BUF.saturating_sub(1)).unwrap_or_default() } else { line };
    let end: &[u8] = if cut { b"\n" } else { b"" };
    let line = [fits, end].concat();
    // Another process may have used the room in the meantime; a pipe of our own does not block then.
    poll::writable(&io::stderr(), wait_max) && io::stderr().lock().write_all(&line).is_ok()
}

fn loss(count: u64) -> String {
    format!("spa-knockd: warning: standard error was not read; log lines lost: {count}\n")
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Only our own lines: the log output of libraries has not been reviewed for secrets.
        metadata.target().starts_with("spa_knock")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let label = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "debug: ",
        };
        // sd-daemon(3): the priority, in angle brackets before the line.
        let priority = match record.level() {
            _ if !self.journal => "",
            Level::Error => "<3>",
            Level::Warn => "<4>",
            Level::Info => "<6>",
            Level::Debug | Level::Trace => "<7>",
        };
        // One write for each line, so that the lines of two processes do not mix. Continuation lines are indented, so
        // that no untrusted text can imitate a line of ours.
        let mut text = record.args().to_string().replace('\n', "\n  ");
        text.truncate(text.floor_char_boundary(LINE_MAX));
        put(format!("{priority}{}: {label}{text}\n", self.name).into_bytes(), self.wait_max);
    }

    fn flush(&self) {
        flush();
    }
}

/// Standard error, written by the thread.
struct Stderr;

impl Sink<Vec<u8>> for Stderr {
    fn write(&mut self, line: &Vec<u8>) -> Result<(), String> {
        io::stderr().lock().write_all(line).map_err(|error| outbox::reason(&error))
    }

    fn write_loss(&mut self, count: u64) -> Result<(), String> {
        self.write(&loss(count).into_bytes())
    }
}
