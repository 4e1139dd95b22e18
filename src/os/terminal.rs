//! A question to the person at the terminal, whatever standard input and output are tied to; and how wide it is.
#![allow(clippy::disallowed_methods, reason = "the terminal is no file that anybody names")]

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 256;

/// Where the terminal is, seen from any process that has one.
#[cfg(unix)]
const TERMINAL: &str = "/dev/tty";
#[cfg(windows)]
const TERMINAL: &str = "CON";

/// How many columns standard output has, if it is a terminal.
#[must_use]
pub fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size_of(io::stdout()).map(|(terminal_size::Width(columns), _)| columns.into())
}

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

/// Standard input, a terminal, while it does not show what is typed. It is as before when this is dropped.
#[cfg(unix)]
pub struct HiddenInput {
    input: std::fs::File,
    before: nix::sys::termios::Termios,
    interrupts: [u8; 2],
}

/// The longest line that a terminal hands over: the kernel's N_TTY_BUF_SIZE.
#[cfg(unix)]
const LINE_MAX: usize = 4096;

#[cfg(unix)]
impl HiddenInput {
    /// Hides what is typed from now on. The keys for signals end a line instead, so that nothing ends this process
    /// while the terminal is changed.
    ///
    /// # Errors
    /// When standard input is no terminal.
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
        // What has been typed ahead is kept.
        tcsetattr(&input, SetArg::TCSANOW, &hidden)?;
        Ok(Self { input, before, interrupts })
    }

    /// The next line with its end; none at the end of the input. Nothing beyond the line is read.
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
        // There is no other way to restore it.
        let _ = tcsetattr(&self.input, SetArg::TCSANOW, &self.before);
    }
}

/// Standard input, where this program cannot hide what is typed.
#[cfg(not(unix))]
pub struct Hidden;

#[cfg(not(unix))]
impl HiddenInput {
    /// Does nothing.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// The next line with its end; none at the end of the input.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn line(&mut self) -> io::Result<Option<zeroize::Zeroizing<String>>> {
        let mut line = zeroize::Zeroizing::new(String::with_capacity(4096));
        let length = io::stdin().lock().read_line(&mut line)?;
        Ok((length > 0).then_some(line))
    }
}
