//! What people and scripts get to see: text on standard error, one JSON object on standard output.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::args::{CommonArgs, KnockArgs, Output};
use super::failure::{ClientError, ExitCause};
use crate::os::files::io_error_text;

/// How an outcome is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reporter {
    output: Output,
    volume: Volume,
}

/// A knock that the server did what it asked for, or that was sent without asking for a reply. What nobody
/// knows without a reply is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Success {
    /// `granted`, `started`, `done` or `sent`.
    pub(super) result: &'static str,
    /// What was asked for.
    pub(super) action: String,
    /// The server, as typed.
    pub(super) server: String,
    /// The address that was let in.
    pub(super) address: Option<String>,
    /// For how long; 0 where nothing is open.
    pub(super) seconds: Option<u32>,
    /// The server's clock.
    pub(super) server_time_ms: Option<u64>,
    /// From the knock to its answer.
    pub(super) round_trip_ms: Option<f64>,
}

/// A line that stays until the next one takes its place; without a terminal there is none. It goes when this is
/// dropped.
pub(super) struct ProgressLine {
    shown: bool,
    last: String,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    result: &'static str,
    code: u8,
    reason: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Volume {
    ErrorsOnly,
    Normal,
    Everything,
}

impl Reporter {
    /// For a command that is not told how.
    pub(super) const PLAIN: Self = Self { output: Output::Text, volume: Volume::Normal };

    /// For who tells it otherwise.
    pub(super) const SILENT: Self = Self { output: Output::Text, volume: Volume::ErrorsOnly };

    /// As the command line wants it.
    pub(super) const fn new(args: &KnockArgs) -> Self {
        Self { output: args.output, ..Self::of(&args.manner) }
    }

    /// As text, with as many words as are wanted.
    pub(super) const fn of(args: &CommonArgs) -> Self {
        let volume = match (args.quiet, args.verbose) {
            (true, _) => Volume::ErrorsOnly,
            (false, true) => Volume::Everything,
            (false, false) => Volume::Normal,
        };
        Self { output: Output::Text, volume }
    }

    /// What happens on the way.
    pub(super) fn detail(&self, text: impl FnOnce() -> String) {
        if self.volume >= Volume::Everything {
            say(&text());
        }
    }

    /// What a person should know.
    pub(super) fn note(&self, text: &str) {
        if self.volume >= Volume::Normal {
            say(text);
        }
    }

    /// What to do, where another message has said what is wrong.
    pub(super) fn hint(&self, text: &str) {
        let _ = io::stderr().write_all(format!("hint: {text}\n").as_bytes());
    }

    /// What goes on at the moment, for a person at a terminal.
    pub(super) fn progress(&self) -> ProgressLine {
        let shown =
            self.volume >= Volume::Normal && self.output == Output::Text && io::stderr().is_terminal();
        ProgressLine { shown, last: String::new() }
    }

    /// What a person was asking for: text, or the same as JSON, on standard output.
    pub(super) fn product(&self, text: &str, json: &impl Serialize) -> Result<(), ClientError> {
        match self.output {
            Output::Text => print(text.as_bytes()),
            Output::Json => print_json(json),
        }
    }

    /// A good outcome. The exit code tells it too, so that a reader who has gone is no error.
    pub(super) fn success(&self, text: &str, success: &Success) {
        match self.output {
            Output::Text => self.note(text),
            Output::Json => drop(print_json(success)),
        }
    }

    /// A bad one.
    pub(super) fn failure(&self, failure: &ClientError) -> ExitCode {
        if failure.cause() == ExitCause::Unread {
            return failure.exit_code();
        }
        say(&failure.to_string());
        if self.output == Output::Json {
            let cause = failure.cause();
            let _ = print_json(&FailureJson {
                result: cause.result(),
                code: cause.code(),
                reason: failure.reason(),
            });
        }
        failure.exit_code()
    }
}

impl ProgressLine {
    /// Puts a text in the place of the last one.
    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.shown {
            return;
        }
        let text = text();
        if text != self.last {
            self.put(&format!("spa-knock: {text}"));
            self.last = text;
        }
    }

    /// Removes the text, for a line that stays.
    pub(super) fn clear(&mut self) {
        if !self.last.is_empty() {
            self.put("");
            self.last.clear();
        }
    }

    fn put(&self, text: &str) {
        // Back to the line's start, and what stood there is erased (ECMA-48, EL).
        let _ = io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Writes to standard output: a key that went to a full disk must not look like one that was written.
pub(super) fn print(bytes: &[u8]) -> Result<(), ClientError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::BrokenPipe => ExitCause::Unread,
            _ => ExitCause::Files,
        };
        ClientError::new(cause, format!("standard output: {}", io_error_text(&error)))
    })
}

fn print_json(value: &impl Serialize) -> Result<(), ClientError> {
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    print(line.as_bytes())
}

fn say(text: &str) {
    // Whole in one go: lines of other processes must not come in between.
    let _ = io::stderr().write_all(format!("spa-knock: {text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_that_scripts_read() {
        let granted = Success {
            result: "granted",
            action: "open-ssh".to_owned(),
            server: "home".to_owned(),
            address: Some("203.0.113.9".to_owned()),
            seconds: Some(30),
            server_time_ms: Some(1),
            round_trip_ms: Some(0.25),
        };
        assert_eq!(
            serde_json::to_string(&granted).unwrap(),
            r#"{"result":"granted","action":"open-ssh","server":"home","address":"203.0.113.9","seconds":30,"server_time_ms":1,"round_trip_ms":0.25}"#
        );
    }
}
