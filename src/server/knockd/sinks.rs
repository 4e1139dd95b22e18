//! Where the lines of the log go: a file, syslog, standard output.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::knock::Timestamp;
use crate::knockd::line;
use crate::os::clock;
use crate::os::files::{self, Mode};

/// Facility daemon, level notice (RFC 5424): as Debian's knockd.
const PRIORITY: u8 = 29;
const SYSLOG: &str = "/dev/log";

/// All of them; a line goes to each.
pub(super) struct Sinks {
    path: Option<PathBuf>,
    file: Option<File>,
    /// Sticky, as in knockd: a reload can only turn it on.
    syslog: bool,
    verbose: bool,
}

impl Sinks {
    /// Opens the file; one that cannot be written is told and done without.
    pub(super) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        let mut sinks = Self { path: None, file: None, syslog, verbose };
        sinks.set_path(path);
        sinks.reopen();
        sinks
    }

    /// Lets go of the file, so that whoever has moved it away can have it; which one comes next, if not the same. The
    /// file's path from now on.
    pub(super) fn close(&mut self, path: Option<PathBuf>, syslog: bool) -> Option<&Path> {
        self.syslog |= syslog;
        self.file = None;
        if path.is_some() {
            self.set_path(path);
        }
        self.path.as_deref()
    }

    /// Goes on in the file.
    pub(super) fn reopen(&mut self) {
        self.file = self.path.as_deref().and_then(|path| {
            files::append(path, Mode::Public).inspect_err(|error| log::warn!("{error}")).ok()
        });
    }

    /// Writes what happened at this time wherever lines go. Where nobody can be told, nothing is lost that could be
    /// helped.
    pub(super) fn write(&self, text: &str, at: Timestamp) {
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(line(text, &clock::local(at, "%Y-%m-%d %H:%M")).as_bytes());
        }
        if self.syslog {
            let stamp = clock::local(at, "%b %e %H:%M:%S");
            let datagram = format!("<{PRIORITY}>{stamp} knockd: {text}");
            let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(datagram.as_bytes(), SYSLOG));
        }
        self.say(text);
    }

    /// Only for who watches (`-v`).
    pub(super) fn say(&self, text: &str) {
        if self.verbose {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// An empty path is none.
    fn set_path(&mut self, path: Option<PathBuf>) {
        self.path = path.filter(|path| !path.as_os_str().is_empty());
    }
}
