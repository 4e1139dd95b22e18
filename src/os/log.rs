//! The daemon's log: lines on standard error, with priorities where systemd's journal reads them.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::env;

struct Stderr {
    name: &'static str,
    journal: bool,
}

/// Sends log lines to standard error, named after the process that writes them. `SPA_KNOCKD_LOG` (error, warn,
/// info, debug, trace) says from which level on; info unless told.
pub fn start(name: &'static str) {
    let level = env::text("SPA_KNOCKD_LOG").and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::Info);
    let journal = env::text("JOURNAL_STREAM").is_some();
    // Started twice is an error that changes nothing: the first one goes on.
    if log::set_boxed_logger(Box::new(Stderr { name, journal })).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Stderr {
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
        // One write a line, so that the lines of two processes do not mix. If nobody can be told, nobody is.
        // What follows a line end stands indented: no text, whoever wrote it, can pass for a line of ours.
        let text = record.args().to_string().replace('\n', "\n  ");
        let line = format!("{priority}{}: {word}{text}\n", self.name);
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
