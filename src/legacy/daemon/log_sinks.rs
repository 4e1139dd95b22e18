//! Where the lines of the log go: a file, syslog, standard output. A thread writes them, so that no disk, no syslog
//! daemon and no terminal holds a knock up.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::legacy::knockd::line;
use crate::os::outbox::{OnFailure, Outbox, Sink};
use crate::os::{clock, files, stdio};
use spa_knock_core::knock::Timestamp;

/// Facility daemon, level notice (RFC 5424): as Debian's knockd.
const PRIORITY: u8 = 29;
const SYSLOG: &str = "/dev/log";
/// Lines that wait for the thread. Besides what opens there are 200 a second (`legacy/watcher/log_limiter.rs`).
const ROOM: usize = 4_096;
/// How long a daemon that ends waits for the thread.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// All of them; a line goes to each.
pub(in crate::legacy) struct Sinks {
    outbox: Outbox<SinkEntry, SinkFiles>,
    path: Option<PathBuf>,
    /// Sticky, as in knockd: a reload can only turn it on.
    syslog: bool,
    verbose: bool,
}

/// What the thread does.
enum SinkEntry {
    /// Writes what happened at this time wherever lines go.
    Line(String, Timestamp, Syslog),
    /// Writes it to standard output.
    Say(String),
    /// Closes the file, so that whoever has moved it away can have it.
    Close,
    /// Continues in this file.
    Open(Option<PathBuf>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Syslog {
    On,
    Off,
}

/// What the thread writes to.
struct SinkFiles {
    file: Option<File>,
    verbose: bool,
}

impl Sinks {
    /// Opens the file; one that cannot be written is reported and done without.
    pub(in crate::legacy) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        let outbox = Outbox::start(SinkFiles { file: None, verbose }, ROOM, OnFailure::Drop);
        let mut sinks = Self { outbox, path: None, syslog, verbose };
        sinks.set_path(path);
        sinks.reopen();
        // What is wrong with the file is reported before anything else.
        sinks.flush();
        sinks
    }

    /// Lets go of the file, so that whoever has moved it away can have it; which one comes next, if not the same. The
    /// file's path from now on.
    pub(in crate::legacy) fn close(&mut self, path: Option<PathBuf>, syslog: bool) -> Option<&Path> {
        self.syslog |= syslog;
        self.outbox.push(SinkEntry::Close);
        if path.is_some() {
            self.set_path(path);
        }
        self.path.as_deref()
    }

    /// Goes on in the file.
    pub(in crate::legacy) fn reopen(&mut self) {
        self.outbox.push(SinkEntry::Open(self.path.clone()));
    }

    /// Writes what happened at this time wherever lines go.
    pub(in crate::legacy) fn write(&self, text: &str, at: Timestamp) {
        let syslog = if self.syslog { Syslog::On } else { Syslog::Off };
        self.outbox.push(SinkEntry::Line(text.to_owned(), at, syslog));
    }

    /// Only for who watches (`-v`).
    pub(in crate::legacy) fn say(&self, text: &str) {
        if self.verbose {
            self.outbox.push(SinkEntry::Say(text.to_owned()));
        }
    }

    /// Waits a moment until all is written.
    pub(in crate::legacy) fn flush(&self) {
        self.outbox.flush(FLUSH_MAX);
    }

    /// An empty path is none.
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
                    // A line that a full disk does not take is lost, as with knockd.
                    let _ = file.write_all(line(text, &clock::local(*at, "%Y-%m-%d %H:%M")).as_bytes());
                }
                if *syslog == Syslog::On {
                    let stamp = clock::local(*at, "%b %e %H:%M:%S");
                    let datagram = format!("<{PRIORITY}>{stamp} knockd: {text}");
                    let send = |socket: UnixDatagram| socket.send_to(datagram.as_bytes(), SYSLOG);
                    let _ = UnixDatagram::unbound().and_then(send);
                }
                if self.verbose {
                    say(text);
                }
            }
            SinkEntry::Say(text) => say(text),
            SinkEntry::Close => self.file = None,
            SinkEntry::Open(path) => {
                let open = |path: &Path| open(path).inspect_err(|error| log::warn!("{error}")).ok();
                self.file = path.as_deref().and_then(open);
            }
        }
        Ok(())
    }

    fn write_loss(&mut self, count: u64) -> Result<(), String> {
        log::warn!("log: {count} lines are lost: they could not be written fast enough");
        Ok(())
    }
}

fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Opens a log file. Standard output and error are what they are, also where they are pipes or sockets.
fn open(path: &Path) -> Result<File, files::FileError> {
    let io = |error: io::Error| files::FileError::io(path, &error);
    match path.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => stdio::output().map_err(io),
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => stdio::error().map_err(io),
        _ => files::append_log(path),
    }
}
