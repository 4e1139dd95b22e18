//! Output for users and scripts: text on standard error, one JSON object on standard output.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::args::{CommonArgs, KnockArgs, Output};
use super::failure::{ClientError, ExitCause};
use super::fan_out::outcome::ServerOutcome;
use crate::os::files::io_error_text;

/// In front of each message.
const PREFIX: &str = "spa-knock: ";

/// Prints results, errors and progress in the requested form.
#[derive(Debug, Clone)]
pub(super) struct Reporter {
    output: Output,
    volume: Volume,
    line_end: LineEnd,
    /// The server that details and notes are about, if several are knocked at.
    subject: Option<Arc<str>>,
}

/// How a line of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    /// With a line feed.
    Newline,
    /// With a carriage return as well: a command such as ssh may have put the terminal into raw mode, where a line feed alone
    /// does not go back to the first column.
    Raw,
}

/// The result of a knock that succeeded, or that was sent without requesting a reply. Fields that are unknown without a
/// reply are null.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Success {
    /// `granted`, `started`, `done` or `sent`.
    pub(super) result: &'static str,
    /// The requested action.
    pub(super) action: String,
    /// The server, as typed.
    pub(super) server: String,
    /// The address that got access.
    pub(super) address: Option<String>,
    /// Duration of the grant; 0 if nothing is open.
    pub(super) seconds: Option<u32>,
    /// Time on the server's clock.
    pub(super) server_time_ms: Option<u64>,
    /// Time from the knock to its reply.
    pub(super) round_trip_ms: Option<f64>,
    /// The outcome at each server, if several were knocked at; none otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) servers: Option<Vec<ServerOutcome>>,
}

/// A status line on the terminal: each text replaces the previous one, and dropping this removes the line. Without a
/// terminal nothing is shown.
pub(super) struct ProgressLine {
    shown: bool,
    last: String,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    result: &'static str,
    code: u8,
    reason: &'a str,
    /// The address that the server saw, if it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<&'a [ServerOutcome]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Volume {
    ErrorsOnly,
    Normal,
    Everything,
}

impl Reporter {
    /// For commands without output options.
    pub(super) const PLAIN: Self =
        Self { output: Output::Text, volume: Volume::Normal, line_end: LineEnd::Newline, subject: None };

    /// For commands whose only output option is `--verbose`.
    #[cfg(feature = "fwknop")]
    pub(super) const DETAILED: Self =
        Self { output: Output::Text, volume: Volume::Everything, line_end: LineEnd::Newline, subject: None };

    /// For callers that print the result themselves.
    pub(super) const SILENT: Self =
        Self { output: Output::Text, volume: Volume::ErrorsOnly, line_end: LineEnd::Newline, subject: None };

    /// As set on the command line.
    pub(super) fn new(args: &KnockArgs) -> Self {
        Self { output: args.output, ..Self::of(&args.common) }
    }

    /// Text, with `--quiet` or `--verbose` applied.
    pub(super) fn of(args: &CommonArgs) -> Self {
        let volume = match (args.quiet, args.verbose) {
            (true, _) => Volume::ErrorsOnly,
            (false, true) => Volume::Everything,
            (false, false) => Volume::Normal,
        };
        Self { volume, ..Self::PLAIN }
    }

    /// The same, while a command uses the terminal.
    pub(super) fn beside_command(self) -> Self {
        let line_end = if io::stderr().is_terminal() { LineEnd::Raw } else { LineEnd::Newline };
        Self { line_end, ..self }
    }

    /// The same for a knock that is repeated: only details, because the first knock has printed the warnings.
    pub(super) fn of_renewals(self) -> Self {
        let volume = if self.volume >= Volume::Everything { self.volume } else { Volume::ErrorsOnly };
        Self { volume, ..self }
    }

    /// The same, for one of several servers: its details and notes begin with its name, and it has no status line.
    pub(super) fn about(&self, server: &str) -> Self {
        Self { subject: Some(server.into()), ..self.clone() }
    }

    /// Prints a detail, with `--verbose` only.
    pub(super) fn detail(&self, text: impl FnOnce() -> String) {
        if self.volume >= Volume::Everything {
            self.print_line(&text());
        }
    }

    /// Prints a message, unless `--quiet` is given.
    pub(super) fn note(&self, text: &str) {
        if self.volume >= Volume::Normal {
            self.print_line(text);
        }
    }

    /// Prints what the user must do now. Also with `--quiet`, and while a command of `keep` runs.
    pub(super) fn prompt(&self, text: &str) {
        self.print_line(text);
    }

    /// Prints a hint, after an error that has been printed elsewhere.
    pub(super) fn hint(&self, text: &str) {
        let _ = io::stderr().write_all(format!("hint: {text}\n").as_bytes());
    }

    /// Starts a status line; it is shown on a terminal only.
    pub(super) fn progress(&self) -> ProgressLine {
        let shown = self.volume >= Volume::Normal
            && self.output == Output::Text
            && self.subject.is_none()
            && io::stderr().is_terminal();
        ProgressLine { shown, last: String::new() }
    }

    /// Prints requested output, as text or JSON, on standard output.
    pub(super) fn product(&self, text: &str, json: &impl Serialize) -> Result<(), ClientError> {
        match self.output {
            Output::Text => print(text.as_bytes()),
            Output::Json => print_json(json),
        }
    }

    /// Prints a success. The exit code reports it too, so a closed standard output is no error.
    pub(super) fn success(&self, text: &str, success: &Success) {
        match self.output {
            Output::Text => text.lines().for_each(|line| self.note(line)),
            Output::Json => drop(print_json(success)),
        }
    }

    /// Prints a failure, and returns its exit code.
    pub(super) fn failure(&self, failure: &ClientError) -> ExitCode {
        if failure.cause() == ExitCause::Unread {
            return failure.exit_code();
        }
        let others = failure.servers().unwrap_or_default();
        if self.output == Output::Text {
            let others = others.iter().filter(|server| !server.is_about(failure));
            others.for_each(|server| self.note(server.text()));
        }
        self.print_message(&failure.to_string());
        if self.output == Output::Json {
            let cause = failure.cause();
            let _ = print_json(&FailureJson {
                result: cause.result(),
                code: cause.code(),
                reason: failure.reason(),
                observed: failure.observed().map(|address| address.to_string()),
                servers: failure.servers(),
            });
        }
        failure.exit_code()
    }

    fn print_line(&self, text: &str) {
        let subject = self.subject.as_ref().map(|subject| format!("{subject}: ")).unwrap_or_default();
        let mut lines = text.split('\n');
        let mut message = format!("{subject}{}", lines.next().unwrap_or_default());
        // In one piece: the outcome at each of several servers, or a hint.
        for line in lines {
            let prefix =
                if line.starts_with("hint: ") { String::new() } else { format!("{PREFIX}{subject}") };
            message.push_str(&format!("\n{prefix}{line}"));
        }
        self.print_message(&message);
    }

    fn print_message(&self, text: &str) {
        let text = format!("{PREFIX}{text}\n");
        let text = match self.line_end {
            LineEnd::Newline => text,
            LineEnd::Raw => format!("\r{}", text.replace('\n', "\r\n")),
        };
        // In a single write, so that output of other processes cannot come in between.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl ProgressLine {
    /// Replaces the text.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if !self.shown {
            return;
        }
        let text = text();
        if text != self.last {
            self.put(&format!("{PREFIX}{text}"));
            self.last = text;
        }
    }

    /// Removes the text, so that a permanent line can be printed.
    pub(super) fn clear(&mut self) {
        if !self.last.is_empty() {
            self.put("");
            self.last.clear();
        }
    }

    fn put(&self, text: &str) {
        let line = if cfg!(windows) {
            // A console may not know escape sequences: the previous text is overwritten.
            let before = self.last.chars().count().saturating_add(PREFIX.len());
            format!("\r{:before$}\r{text}", "")
        } else {
            // Carriage return, then erase to the end of the line (ECMA-48, EL).
            format!("\r\x1b[K{text}")
        };
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Writes to standard output. Errors are reported: a key that a full disk cut off must not look like a complete one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_keys_that_scripts_read() {
        let granted = Success {
            result: "granted",
            action: "open-ssh".to_owned(),
            server: "home".to_owned(),
            address: Some("203.0.113.9".to_owned()),
            seconds: Some(30),
            server_time_ms: Some(1),
            round_trip_ms: Some(0.25),
            servers: None,
        };
        assert_eq!(
            serde_json::to_string(&granted).unwrap(),
            r#"{"result":"granted","action":"open-ssh","server":"home","address":"203.0.113.9","seconds":30,"server_time_ms":1,"round_trip_ms":0.25}"#
        );
    }
}
