//! The output of a command, read without blocking and kept up to a limit.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How many bytes of output are kept.
pub(super) const OUTPUT_MAX: usize = 64 << 10;

/// A command's output so far.
pub(super) struct CapturedOutput {
    /// `None` after the end of the output.
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

    /// Reads what is available. Output beyond the limit is read and dropped, so that the command is not blocked.
    pub(super) fn read(&mut self) {
        /// Together a pipe's size. The rest is read in the next turn of the event loop.
        const READS_MAX: usize = 16;
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 4096];
        for _ in 0..READS_MAX {
            match pipe.read(&mut buffer) {
                Ok(0) => return self.pipe = None,
                Ok(length) => {
                    let room = OUTPUT_MAX.saturating_sub(self.bytes.len());
                    self.bytes.extend(buffer.iter().take(length.min(room)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.pipe = None,
            }
        }
    }

    /// The output as one line. Characters that are not printable are escaped.
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
