//! Output of the administrator's commands: messages, tables, and the exit codes of failures.

mod own_command;
pub(crate) mod wrap;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::os::files::{FileError, io_error_text};
use crate::os::{env, log as os_log, terminal};
pub(crate) use own_command::{has_own_config, name_config, own_command};
use wrap::{columns, fill, wrapped};

/// Why a command failed. A message may have several lines; each hint has a line of its own.
#[derive(Debug)]
pub(crate) struct AdminError {
    code: u8,
    messages: Vec<String>,
}

impl AdminError {
    const RUN: u8 = 1;
    /// The exit code of a program that SIGPIPE ended.
    const UNREAD: u8 = 141;
    const USAGE: u8 = 2;
    const CONFIG: u8 = 5;

    /// The command failed at run time.
    pub(crate) fn run(message: impl Display) -> Self {
        Self { code: Self::RUN, messages: vec![message.to_string()] }
    }

    /// The command line is invalid.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: Self::USAGE, messages: vec![message.to_string()] }
    }

    /// A config has these errors.
    pub(crate) fn configs(messages: Vec<String>) -> Self {
        Self { code: Self::CONFIG, messages }
    }

    /// The config of another program has an error.
    #[cfg(feature = "legacy")]
    pub(crate) fn config(message: impl Display) -> Self {
        Self { code: Self::CONFIG, messages: vec![message.to_string()] }
    }

    /// A key cannot be used.
    pub(crate) fn key(message: impl Display) -> Self {
        Self { code: Self::CONFIG, messages: vec![message.to_string()] }
    }

    /// All messages, for a log.
    pub(crate) fn text(&self) -> String {
        self.messages.join("\n")
    }

    /// Prints the messages and returns the exit code.
    pub(crate) fn exit(self) -> ExitCode {
        // Lines logged earlier come first.
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

/// A list of ports as text.
pub(crate) fn listed(ports: &[String]) -> String {
    if ports.is_empty() { "no port".to_owned() } else { ports.join(", ") }
}

/// A number with its noun: "1 grant", "2 grants", "0 addresses". The noun is regular and singular.
pub(crate) fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count if noun.ends_with('s') => format!("{count} {noun}es"),
        count => format!("{count} {noun}s"),
    }
}

/// Prints an error to standard error.
pub(crate) fn print_error(message: impl Display) {
    notice(format_args!("spa-knockd: {message}"));
}

/// Prints a message to standard error, wrapped for a terminal. Errors of the output are ignored.
pub(crate) fn notice(message: impl Display) {
    let text = wrapped(&message.to_string(), terminal::width_of(&io::stderr()));
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a message to standard error as it is. Leaves no copy of it in memory.
pub(crate) fn notice_verbatim(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Prints lines of text to standard output, wrapped for a terminal.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print_lines(text: &str) -> Result<(), AdminError> {
    print(&wrapped(text, terminal::width()))
}

/// Prints text to standard output as it is.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print(text: &str) -> Result<(), AdminError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        // The reader has closed the pipe, as `head` does: nothing to report.
        io::ErrorKind::BrokenPipe => AdminError { code: AdminError::UNREAD, messages: Vec::new() },
        _ => AdminError::run(format_args!("standard output: {}", io_error_text(&error))),
    })
}

/// Whether text has colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    /// For a terminal.
    On,
    /// For everything else.
    Off,
}

impl Color {
    /// On for a terminal that has colors, unless the user has set `NO_COLOR` (no-color.org).
    pub(crate) fn of(output: &impl IsTerminal) -> Self {
        Self::decide(output.is_terminal(), env::text("NO_COLOR").as_deref(), env::text("TERM").as_deref())
    }

    fn decide(is_terminal: bool, no_color: Option<&str>, term: Option<&str>) -> Self {
        let is_refused = no_color.is_some_and(|value| !value.is_empty());
        let has_colors = term.is_some_and(|term| term != "dumb");
        if is_terminal && has_colors && !is_refused { Self::On } else { Self::Off }
    }
}

/// Rows of left-aligned columns. If they are wider than the terminal, the widest columns are wrapped at spaces.
#[must_use]
pub(crate) fn table<const N: usize>(rows: &[[String; N]], width: Option<usize>) -> String {
    let widths = column_widths(rows, width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<Vec<String>> =
            row.iter().zip(&widths).map(|(cell, width)| fill(cell, *width)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            let parts = cells.iter().zip(&widths).map(|(cell, width)| {
                format!("{:width$}", cell.get(line).map(String::as_str).unwrap_or_default())
            });
            text.push_str(parts.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
    }
    text
}

/// The widths of a table's columns, narrowed to fit the terminal as far as their longest words allow.
fn column_widths<const N: usize>(rows: &[[String; N]], width: Option<usize>) -> Vec<usize> {
    let largest = |column: usize, measure: fn(&String) -> usize| {
        rows.iter().filter_map(|row| row.get(column)).map(measure).max().unwrap_or_default()
    };
    let mut widths: Vec<usize> = (0..N).map(|column| largest(column, |cell| columns(cell))).collect();
    let longest_words: Vec<usize> = (0..N)
        .map(|column| largest(column, |cell| cell.split(' ').map(columns).max().unwrap_or_default()))
        .collect();
    let Some(available) = width.map(|width| width.saturating_sub(N.saturating_sub(1).saturating_mul(2)))
    else {
        return widths;
    };
    for _ in 0..N {
        let excess = widths.iter().sum::<usize>().saturating_sub(available);
        let slack = |(width, word): (&usize, &usize)| width.saturating_sub(*word);
        let widest = (0..N).max_by_key(|column| {
            widths.get(*column).zip(longest_words.get(*column)).map(slack).unwrap_or_default()
        });
        let Some((width, word)) =
            widest.and_then(|column| widths.get_mut(column).zip(longest_words.get(column)))
        else {
            break;
        };
        *width = width.saturating_sub(excess).max(*word);
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular_and_all_other_numbers_are_plural() {
        assert_eq!(counted(0_usize, "action"), "0 actions");
        assert_eq!(counted(1_u64, "action"), "1 action");
        assert_eq!(counted(2_u64, "action"), "2 actions");
        assert_eq!(counted(3_usize, "address"), "3 addresses");
    }

    #[test]
    fn colors_need_a_terminal_and_no_color_turns_them_off_unless_it_is_empty() {
        for (is_terminal, no_color, term, expected) in [
            (true, None, Some("xterm"), Color::On),
            (true, Some(""), Some("xterm"), Color::On),
            (true, Some("1"), Some("xterm"), Color::Off),
            (true, None, Some("dumb"), Color::Off),
            (true, None, None, Color::Off),
            (false, None, Some("xterm"), Color::Off),
        ] {
            assert_eq!(Color::decide(is_terminal, no_color, term), expected, "{no_color:?} {term:?}");
        }
    }

    #[test]
    fn a_table_that_is_too_wide_wraps_its_widest_column_under_its_heading() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["NAME", "ALLOW", "EXPIRES"]), row(["laptop", "open-ssh, open-web, lamp", "never"])];
        let wide = "NAME    ALLOW                     EXPIRES\nlaptop  open-ssh, open-web, lamp  never\n";
        assert_eq!(table(&rows, None), wide);
        assert_eq!(table(&rows, Some(80)), wide);
        let narrow =
            "NAME    ALLOW                EXPIRES\nlaptop  open-ssh, open-web,  never\n        lamp\n";
        assert_eq!(table(&rows, Some(36)), narrow);
        let narrowest =
            "NAME    ALLOW      EXPIRES\nlaptop  open-ssh,  never\n        open-web,\n        lamp\n";
        assert_eq!(table(&rows, Some(1)), narrowest);
    }
}
