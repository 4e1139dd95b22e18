//! Destinations of the log: a file, syslog, standard output. A thread writes the lines, so that a slow disk, syslog
//! daemon or terminal does not delay a knock.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::legacy::knockd::line;
use crate::os::outbox::{OnFailure, Outbox, Sink};
use crate::os::{clock, files, stdio};
use spa_knock_core::knock::Timestamp;

/// Facility daemon, level notice (RFC 5424), as in Debian's knockd.
const PRIORITY: u8 = 29;
const SYSLOG: &str = "/dev/log";
/// How many lines can wait for the thread. Besides doors that open, at most 200 events a second are logged
/// (`legacy/watcher/log_limiter.rs`).
const ROOM: usize = 4_096;
/// How long a daemon that stops waits for the thread.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// All destinations. Each line goes to every one of them.
pub(in crate::legacy) struct Sinks {
    outbox: Outbox<SinkEntry, SinkFiles>,
    path: Option<PathBuf>,
    /// Sticky, as in knockd: a reload can only turn it on.
    syslog: bool,
    verbose: bool,
}

/// A task for the thread.
enum SinkEntry {
    /// Writes a line with this time to all destinations.
    Line(String, Timestamp, Syslog),
    /// Writes a line to standard output.
    Print(String),
    /// Closes the file, so that a program that has renamed it can process it.
    Close,
    /// Opens this file for the following lines.
    Open(Option<PathBuf>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Syslog {
    On,
    Off,
}

/// The thread's open file and settings.
struct SinkFiles {
    file: Option<File>,
    verbose: bool,
}

impl Sinks {
    /// Opens the file. If it cannot be written, logs a warning and continues without a file.
    pub(in crate::legacy) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        let outbox = Outbox::start(SinkFiles { file: None, verbose }, ROOM, OnFailure::Drop);
        let mut sinks = Self { outbox, path: None, syslog, verbose };
        sinks.set_path(path);
        sinks.reopen();
        // Report a problem with the file before anything else.
        sinks.flush();
        sinks
    }

    /// Closes the file, so that a program that has renamed it can process it. `path` replaces the path of the file if
    /// it is `Some`. Returns the path for `reopen`.
    pub(in crate::legacy) fn close(&mut self, path: Option<PathBuf>, syslog: bool) -> Option<&Path> {
        self.syslog |= syslog;
        self.outbox.push(SinkEntry::Close);
        if path.is_some() {
            self.set_path(path);
        }
        self.path.as_deref()
    }

    /// Opens the file again.
    pub(in crate::legacy) fn reopen(&mut self) {
        self.outbox.push(SinkEntry::Open(self.path.clone()));
    }

    /// Writes a line with the time `at` to all destinations.
    pub(in crate::legacy) fn write(&self, text: &str, at: Timestamp) {
        let syslog = if self.syslog { Syslog::On } else { Syslog::Off };
        self.outbox.push(SinkEntry::Line(text.to_owned(), at, syslog));
    }

    /// Writes a line to standard output if `-v` was given.
    pub(in crate::legacy) fn print_verbose(&self, text: &str) {
        if self.verbose {
            self.outbox.push(SinkEntry::Print(text.to_owned()));
        }
    }

    /// Waits up to 500 ms until all lines are written.
    pub(in crate::legacy) fn flush(&self) {
        self.outbox.flush(FLUSH_MAX);
    }

    /// Sets the path. An empty path means no file.
    fn set_path(&mut self, path: Option<PathBuf>) {
        self.path = path.filter(|path| !path.as_os_str().is_empty());
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Sink<SinkEntry> for SinkFiles {
    fn write(&mut self, entry: &SinkEntry) -> Result<(), String> {
        match entry {
            SinkEntry::Line(text, at, syslog) => {
                if let Some(file) = &mut self.file {
                    // A line that cannot be written because the disk is full is lost, as in knockd.
                    let _ = file.write_all(line(text, &clock::local(*at, "%Y-%m-%d %H:%M")).as_bytes());
                }
                if *syslog == Syslog::On {
                    let stamp = clock::local(*at, "%b %e %H:%M:%S");
                    let datagram = format!("<{PRIORITY}>{stamp} knockd: {text}");
                    let send = |socket: UnixDatagram| socket.send_to(datagram.as_bytes(), SYSLOG);
                    let _ = UnixDatagram::unbound().and_then(send);
                }
                if self.verbose {
                    print_line(text);
                }
            }
            SinkEntry::Print(text) => print_line(text),
            SinkEntry::Close => self.file = None,
            SinkEntry::Open(path) => {
                let open = |path: &Path| open(path).inspect_err(|error| log::warn!("{error}")).ok();
                self.file = path.as_deref().and_then(open);
            }
        }
        Ok(())
    }

    fn write_loss(&mut self, count: u64) -> Result<(), String> {
        let lines = if count == 1 { "line" } else { "lines" };
        log::warn!("log: {count} {lines} lost: could not be written fast enough");
        Ok(())
    }
}

fn print_line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Opens a log file. Standard output and standard error are used directly, as they may be pipes or sockets.
fn open(path: &Path) -> Result<File, files::FileError> {
    let io = |error: io::Error| files::FileError::io(path, &error);
    match path.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => stdio::output().map_err(io),
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => stdio::error().map_err(io),
        _ => files::append_log(path),
    }
}
