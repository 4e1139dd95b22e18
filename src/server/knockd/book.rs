//! Where the lines of the log go: a file, syslog, standard output.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use crate::knockd::Message;
use crate::os::clock;
use crate::os::files::{self, Mode};

/// Facility daemon, level notice (RFC 5424): as Debian's knockd.
const PRIORITY: u8 = 29;
const SYSLOG: &str = "/dev/log";

/// The log.
pub(in crate::server) struct Book {
    path: Option<PathBuf>,
    file: Option<File>,
    /// Sticky, as in knockd: a reload can only turn it on.
    syslog: bool,
    verbose: bool,
}

impl Book {
    /// Opens the log; a file that cannot be written is told and done without.
    pub(in crate::server) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let mut book = Self { path, file: None, syslog, verbose };
        book.reopen();
        book
    }

    fn reopen(&mut self) {
        self.file = self.path.as_deref().and_then(|path| {
            files::append(path, Mode::Public).inspect_err(|error| log::warn!("{error}")).ok()
        });
    }

    /// Goes on in this file from now on, or else in the one that it had: what a reload does.
    pub(in crate::server) fn turn_to(&mut self, path: Option<PathBuf>, syslog: bool) {
        self.syslog |= syslog;
        self.file = None;
        if let Some(path) = path {
            self.path = Some(path).filter(|path| !path.as_os_str().is_empty());
        }
        if let Some(path) = &self.path {
            self.write(&Message::Reopening(path));
        }
        self.reopen();
    }

    /// Writes a line wherever lines go. Where nobody can be told, nothing is lost that could be helped.
    pub(in crate::server) fn write(&self, message: &Message<'_>) {
        let now = clock::wall();
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(message.line(&clock::local(now, "%Y-%m-%d %H:%M")).as_bytes());
        }
        if self.syslog {
            let stamp = clock::local(now, "%b %e %H:%M:%S");
            let line = format!("<{PRIORITY}>{stamp} knockd: {}", message.text());
            let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), SYSLOG));
        }
        self.say(&message.text());
    }

    /// Only for who watches (`-v`).
    pub(in crate::server) fn say(&self, text: &str) {
        if self.verbose {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }
}
