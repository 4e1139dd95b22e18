//! Asks the user at the terminal, even if standard input and output are redirected; and the terminal's width.
#![allow(clippy::disallowed_methods, reason = "the terminal is not a file that a user names")]

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

/// Maximum length of an answer, in bytes.
const ANSWER_MAX: u64 = 256;

/// The paths of the terminal for reading and for writing, in any process that has one.
#[cfg(unix)]
const TERMINAL: [&str; 2] = ["/dev/tty"; 2];
#[cfg(windows)]
const TERMINAL: [&str; 2] = ["CONIN$", "CONOUT$"];

/// The width in columns if the terminal does not report it.
const WIDTH_USUAL: usize = 80;

/// The width of standard output in columns, if it is a terminal.
#[must_use]
pub fn width() -> Option<usize> {
    width_of(&io::stdout())
}

/// The width of an output in columns, if it is a terminal.
#[cfg(unix)]
#[must_use]
pub fn width_of(output: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    let size = terminal_size::terminal_size_of(output);
    let width = size.map_or(WIDTH_USUAL, |(terminal_size::Width(columns), _)| columns.into());
    output.is_terminal().then_some(width)
}

/// The width of an output in columns, if it is a terminal.
#[cfg(windows)]
#[must_use]
pub fn width_of(output: &(impl IsTerminal + std::os::windows::io::AsHandle)) -> Option<usize> {
    let size = terminal_size::terminal_size_of(output);
    let width = size.map_or(WIDTH_USUAL, |(terminal_size::Width(columns), _)| columns.into());
    output.is_terminal().then_some(width)
}

/// Asks for one line.
///
/// # Errors
/// When there is no terminal, or the input ends before a line.
pub fn ask(question: &str) -> io::Result<String> {
    ask_with(&format!("{question}: "))
}

/// Asks for a confirmation. Anything but "y" or "yes" is none.
///
/// # Errors
/// When there is no terminal, or the input ends before a line.
pub fn confirm(question: &str) -> io::Result<bool> {
    let answer = ask_with(&format!("{question} [y/N] "))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn ask_with(prompt: &str) -> io::Result<String> {
    let [input, output] = TERMINAL;
    let input = OpenOptions::new().read(true).open(input)?;
    OpenOptions::new().write(true).open(output)?.write_all(prompt.as_bytes())?;
    let mut line = String::new();
    BufReader::new(input.take(ANSWER_MAX)).read_line(&mut line)?;
    if line.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(line.trim().to_owned()) }
}

/// Standard input, a terminal, with the echo turned off. Dropping this value restores it.
pub struct HiddenInput {
    #[cfg(unix)]
    input: std::fs::File,
    #[cfg(unix)]
    before: nix::sys::termios::Termios,
    #[cfg(unix)]
    interrupts: [u8; 2],
}

/// The longest line that a terminal delivers: the kernel's N_TTY_BUF_SIZE.
#[cfg(unix)]
const LINE_MAX: usize = 4096;

#[cfg(unix)]
impl HiddenInput {
    /// Turns the echo off. The keys for signals end a line instead, so that no signal ends this process while the
    /// terminal is changed.
    ///
    /// # Errors
    /// When standard input is not a terminal.
    pub fn new() -> io::Result<Self> {
        use nix::libc::{VEOL, VEOL2, VINTR, VQUIT};
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

        let input = super::stdio::input()?;
        let before = tcgetattr(&input)?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
        hidden.local_flags.insert(LocalFlags::ICANON | LocalFlags::ECHONL);
        let key = |which: usize| before.control_chars.get(which).copied().unwrap_or_default();
        let interrupts = [key(VINTR), key(VQUIT)];
        for (end, key) in [VEOL, VEOL2].into_iter().zip(interrupts) {
            if let Some(end) = hidden.control_chars.get_mut(end) {
                *end = key;
            }
        }
        // TCSANOW keeps input that has already been typed.
        tcsetattr(&input, SetArg::TCSANOW, &hidden)?;
        Ok(Self { input, before, interrupts })
    }

    /// Reads the next line with its line break; `None` at the end of the input. Nothing beyond the line is read.
    ///
    /// # Errors
    /// When it cannot be read, is not UTF-8, or was interrupted ([`io::ErrorKind::Interrupted`]).
    pub fn line(&mut self) -> io::Result<Option<zeroize::Zeroizing<String>>> {
        let mut bytes = zeroize::Zeroizing::new(vec![0; LINE_MAX]);
        let length = loop {
            match self.input.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let line = bytes.get(..length).unwrap_or_default();
        if line.last().is_some_and(|last| *last != 0 && self.interrupts.contains(last)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if line.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(line).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Some(zeroize::Zeroizing::new(text.to_owned())))
    }
}

#[cfg(unix)]
impl Drop for HiddenInput {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        // A failure cannot be handled here.
        let _ = tcsetattr(&self.input, SetArg::TCSANOW, &self.before);
    }
}

#[cfg(windows)]
impl HiddenInput {
    /// Does nothing: each line is read without echo.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Reads the next line of the console with its line break; `None` at the end of the input.
    ///
    /// # Errors
    /// When there is no console.
    pub fn line(&mut self) -> io::Result<Option<zeroize::Zeroizing<String>>> {
        let config = rpassword::ConfigBuilder::new().output_discard().build();
        match rpassword::read_password_with_config(config).map(zeroize::Zeroizing::new) {
            Ok(typed) => {
                let mut line = zeroize::Zeroizing::new(String::with_capacity(typed.len().saturating_add(1)));
                line.push_str(&typed);
                line.push('\n');
                Ok(Some(line))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::Termios;

    use super::*;

    #[test]
    fn a_terminal_has_its_width_or_the_usual_one_and_a_file_has_none() {
        let size = Winsize { ws_row: 24, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 };
        assert_eq!(width_of(&openpty(Some(&size), None::<&Termios>).unwrap().slave), Some(60));
        assert_eq!(width_of(&openpty(None::<&Winsize>, None::<&Termios>).unwrap().slave), Some(WIDTH_USUAL));
        assert_eq!(width_of(&tempfile::tempfile().unwrap()), None);
    }
}
