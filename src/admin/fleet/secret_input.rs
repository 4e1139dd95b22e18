//! Reads a password or a join line: from the terminal, without showing it, or from standard input.

use std::io::{self, IsTerminal};

use zeroize::Zeroizing;

use crate::console::{AdminError, notice};
use crate::os::files::{self, io_error_text};
use crate::os::terminal::HiddenInput;

/// Asks for a text that is complete when `is_complete` accepts it. Line breaks at its end are not part of it.
///
/// # Errors
/// If there is none, it was interrupted, or is longer than `longest`.
pub(super) fn read(
    question: &str,
    longest: usize,
    is_complete: impl Fn(&str) -> bool,
) -> Result<Zeroizing<String>, AdminError> {
    let text = if io::stdin().is_terminal() {
        ask(question, longest, is_complete)?
    } else {
        files::read_secret_from_stdin()?
    };
    let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if text.is_empty() {
        return Err(AdminError::usage(format_args!("standard input: empty\nhint: {question}")));
    }
    if text.len() > longest {
        return Err(AdminError::usage(format_args!("standard input: longer than {longest} bytes")));
    }
    Ok(text)
}

fn ask(
    question: &str,
    longest: usize,
    is_complete: impl Fn(&str) -> bool,
) -> Result<Zeroizing<String>, AdminError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => AdminError::usage("interrupted; nothing was changed"),
        _ => AdminError::run(format_args!("terminal: {}", io_error_text(&error))),
    };
    notice(format_args!("{question} (it is not shown):"));
    let mut terminal = HiddenInput::new().map_err(failed)?;
    // Of the largest size: a growing buffer would leave copies of the secret in memory.
    let mut text = Zeroizing::new(String::with_capacity(longest.saturating_add(2)));
    while let Some(line) = terminal.line().map_err(failed)? {
        if text.len().saturating_add(line.len()) > text.capacity() {
            return Err(AdminError::usage(format_args!("terminal: longer than {longest} bytes")));
        }
        text.push_str(&line);
        // An empty line ends an incomplete text.
        if line.trim().is_empty() || is_complete(&text) {
            break;
        }
    }
    Ok(text)
}
