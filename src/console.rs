//! Talking to the admin: messages, what was asked for, and the exit code that a failure means.

pub(crate) mod wrap;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::os::files::{FileError, io_error_text};
use crate::os::{log as os_log, terminal};
use wrap::wrapped;

/// Why a command ended without success. Its text may have several lines; hints stand on lines of their own.
#[derive(Debug)]
pub(crate) struct AdminError {
    code: u8,
    messages: Vec<String>,
}

impl AdminError {
    const RUN: u8 = 1;
    /// What SIGPIPE ends other programs with.
    const UNREAD: u8 = 141;
    const USAGE: u8 = 2;
    const CONFIG: u8 = 5;

    /// It was tried and did not work.
    pub(crate) fn run(message: impl Display) -> Self {
        Self { code: Self::RUN, messages: vec![message.to_string()] }
    }

    /// It was asked for in a wrong way.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: Self::USAGE, messages: vec![message.to_string()] }
    }

    /// A config says these things that are wrong.
    pub(crate) fn configs(messages: Vec<String>) -> Self {
        Self { code: Self::CONFIG, messages }
    }

    /// A config of another program says something wrong.
    #[cfg(feature = "legacy")]
    pub(crate) fn config(message: impl Display) -> Self {
        Self { code: Self::CONFIG, messages: vec![message.to_string()] }
    }

    /// A key cannot be used.
    pub(crate) fn key(message: impl Display) -> Self {
        Self { code: Self::CONFIG, messages: vec![message.to_string()] }
    }

    /// All of it, for a log.
    pub(crate) fn text(&self) -> String {
        self.messages.join("\n")
    }

    /// Tells it, and gives the process's exit code for it.
    pub(crate) fn exit(self) -> ExitCode {
        // What was logged before comes first.
        os_log::flush();
        for message in &self.messages {
            print_error(message);
        }
        ExitCode::from(self.code)
    }
}

impl From<FileError> for AdminError {
    fn from(error: FileError) -> Self {
        Self::run(error)
    }
}

/// Ports as they are told.
pub(crate) fn listed(ports: &[String]) -> String {
    if ports.is_empty() { "no port".to_owned() } else { ports.join(", ") }
}

/// Prints an error.
pub(crate) fn print_error(message: impl Display) {
    notice(format_args!("spa-knockd: {message}"));
}

/// Prints a remark to standard error. Where nobody listens, nothing is lost.
pub(crate) fn notice(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Prints lines of text, broken at spaces where a terminal is narrower.
///
/// # Errors
/// When it could not be written.
pub(crate) fn print_lines(text: &str) -> Result<(), AdminError> {
    print(&wrapped(text, terminal::width()))
}

/// Prints what was asked for, to standard output.
///
/// # Errors
/// When it could not be written.
pub(crate) fn print(text: &str) -> Result<(), AdminError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        // As `head` does when it has enough: nothing to report.
        io::ErrorKind::BrokenPipe => AdminError { code: AdminError::UNREAD, messages: Vec::new() },
        _ => AdminError::run(format_args!("standard output: {}", io_error_text(&error))),
    })
}

/// Rows of left-aligned columns.
#[must_use]
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
