//! A question to the person at the terminal, whatever standard input and output are tied to.
#![allow(clippy::disallowed_methods, reason = "the terminal is no file that anybody names")]

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 256;

/// Where the terminal is, seen from any process that has one.
#[cfg(unix)]
const TERMINAL: &str = "/dev/tty";
#[cfg(windows)]
const TERMINAL: &str = "CON";

/// Asks for one line.
///
/// # Errors
/// When there is no terminal, or it says nothing.
pub fn ask(question: &str) -> io::Result<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open(TERMINAL)?;
    write!(terminal, "{question}: ")?;
    let mut line = String::new();
    BufReader::new(terminal.take(ANSWER_MAX)).read_line(&mut line)?;
    if line.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(line.trim().to_owned()) }
}
