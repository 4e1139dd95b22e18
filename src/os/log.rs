//! The daemon's log: lines on standard error, with priorities where systemd's journal reads them. A standard error that
//! is not read holds no process up: lines that find no room are lost and counted.

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

/// Lines that wait for the thread.
const ROOM: usize = 1_024;
/// Bytes of a line: the rest is cut off.
const LINE_MAX: usize = 16 << 10;
/// PIPE_BUF of pipe(7): what is not longer is written as a whole or not at all.
const PIPE_BUF: usize = 4_096;
/// How long a line is waited for as long as there is no thread.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a process that ends waits for the thread.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// What the thread writes, once there is one.
static OUTBOX: OnceLock<Outbox<Vec<u8>, Stderr>> = OnceLock::new();
/// Lines lost without a thread, and how many of them the log reports.
static LOST: AtomicU64 = AtomicU64::new(0);
static REPORTED: AtomicU64 = AtomicU64::new(0);

struct Logger {
    name: &'static str,
    journal: bool,
    /// How long a line may be waited for without a thread.
    patience: Duration,
}

/// Sends log lines to standard error, named after the process that writes them. `SPA_KNOCKD_LOG` (error, warn,
/// info, debug, trace) says from which level on; info unless told.
pub fn start(name: &'static str) {
    start_with(name, PATIENCE);
}

/// The same for a process that must never wait and cannot have threads.
pub fn start_without_waiting(name: &'static str) {
    // Where this fails, a line is written when there is room for it a moment before, which is almost as good.
    let _ = open_stderr_for_ourselves();
    start_with(name, Duration::ZERO);
}

/// From now on a thread writes: no line is waited for any more. To be called after rights are dropped.
pub fn start_thread() {
    OUTBOX.get_or_init(|| Outbox::start(Stderr, ROOM, OnFailure::Drop));
}

/// Writes a line that is not of this log, its line end included; whether it was taken.
pub fn write(line: &str) -> bool {
    put(line.as_bytes().to_vec(), PATIENCE)
}

/// Whether one more line would find room.
#[must_use]
pub fn has_room() -> bool {
    OUTBOX.get().is_none_or(|outbox| outbox.has_room_for(1))
}

/// How many lines are lost, since the start.
#[must_use]
pub fn lost() -> u64 {
    let of_thread = OUTBOX.get().map_or(0, |outbox| outbox.state().lost);
    LOST.load(Ordering::Relaxed).saturating_add(of_thread)
}

/// Waits a moment until all lines are written.
pub fn flush() {
    if let Some(outbox) = OUTBOX.get() {
        outbox.flush(FLUSH_MAX);
    }
}

fn start_with(name: &'static str, patience: Duration) {
    let level = env::text("SPA_KNOCKD_LOG").and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::Info);
    let journal = env::text("JOURNAL_STREAM").is_some();
    // Started twice is an error that changes nothing: the first one goes on.
    if log::set_boxed_logger(Box::new(Logger { name, journal, patience })).is_ok() {
        log::set_max_level(level);
    }
}

/// A pipe or terminal is opened once more, not to block: the flag on what we were given would be everybody's.
fn open_stderr_for_ourselves() -> io::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(io::stderr())?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && kind != SFlag::S_IFCHR {
        return Ok(());
    }
    #[allow(clippy::disallowed_methods, reason = "no file that anybody names")]
    let ours = OpenOptions::new()
        .write(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open("/proc/self/fd/2")?;
    nix::unistd::dup2_stderr(ours).map_err(io::Error::from)
}

fn put(line: Vec<u8>, patience: Duration) -> bool {
    if let Some(outbox) = OUTBOX.get() {
        return outbox.push(line);
    }
    let lost = LOST.load(Ordering::Relaxed);
    let unreported = lost.saturating_sub(REPORTED.load(Ordering::Relaxed));
    if unreported > 0 && write_now(loss(unreported).as_bytes(), Duration::ZERO) {
        REPORTED.store(lost, Ordering::Relaxed);
    }
    let written = write_now(&line, patience);
    if !written {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    written
}

/// Writes if there is room for it within `patience`.
fn write_now(line: &[u8], patience: Duration) -> bool {
    let cut = line.len() > PIPE_BUF;
    let fits = if cut { line.get(..PIPE_BUF.saturating_sub(1)).unwrap_or_default() } else { line };
    let end: &[u8] = if cut { b"\n" } else { b"" };
    let line = [fits, end].concat();
    // Somebody else could have taken the room meanwhile; a pipe that is our own does not block then.
    poll::writable(&io::stderr(), patience) && io::stderr().lock().write_all(&line).is_ok()
}

fn loss(count: u64) -> String {
    format!("spa-knockd: warning: standard error was not read: {count} lines of the log are lost\n")
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Our own lines alone: what libraries log has not been looked at for secrets.
        metadata.target().starts_with("spa_knock")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let word = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "debug: ",
        };
        // sd-daemon(3): a priority in angle brackets before the line.
        let priority = match record.level() {
            _ if !self.journal => "",
            Level::Error => "<3>",
            Level::Warn => "<4>",
            Level::Info => "<6>",
            Level::Debug | Level::Trace => "<7>",
        };
        // One write a line, so that the lines of two processes do not mix. What follows a line end is indented: no
        // text, whoever wrote it, can pass for a line of ours.
        let mut text = record.args().to_string().replace('\n', "\n  ");
        text.truncate(text.floor_char_boundary(LINE_MAX));
        put(format!("{priority}{}: {word}{text}\n", self.name).into_bytes(), self.patience);
    }

    fn flush(&self) {
        flush();
    }
}

/// Standard error, as the thread writes to it.
struct Stderr;

impl Sink<Vec<u8>> for Stderr {
    fn write(&mut self, line: &Vec<u8>) -> Result<(), String> {
        io::stderr().lock().write_all(line).map_err(|error| outbox::reason(&error))
    }

    fn write_loss(&mut self, count: u64) -> Result<(), String> {
        self.write(&loss(count).into_bytes())
    }
}
