//! The output of a command, read without blocking and kept up to a limit.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What is kept of what a command says.
pub(super) const SAID_MAX: usize = 64 << 10;

/// What a command has said so far.
pub(super) struct CapturedOutput {
    /// None once it can say no more.
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
}

impl CapturedOutput {
    pub(super) fn pipe() -> io::Result<(Self, io::PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { pipe: Some(reader), bytes: Vec::new() }, writer))
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is there. What is beyond the most that is kept is read and forgotten: a command that says too
    /// much goes on.
    pub(super) fn take(&mut self) {
        /// A pipe's size: one that says more than this at a time is heard again in the next turn.
        const AT_ONCE: usize = 16;
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            match pipe.read(&mut buffer) {
                Ok(0) => return self.pipe = None,
                Ok(length) => {
                    let room = SAID_MAX.saturating_sub(self.bytes.len());
                    self.bytes.extend(buffer.iter().take(length.min(room)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.pipe = None,
            }
        }
    }

    /// One line: what is not printable stands as its escape.
    pub(super) fn into_text(self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut line = String::with_capacity(text.len());
        for c in text.trim_end().chars() {
            match c {
                '"' | '\'' => line.push(c),
                _ => line.extend(c.escape_debug()),
            }
        }
        line
    }
}
