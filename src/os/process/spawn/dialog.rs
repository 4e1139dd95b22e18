//! Writes a program's input and reads its outputs until it exits. Processes that it leaves behind are not waited for:
//! they may keep its pipes open indefinitely.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::kill_group;
use crate::os::clock;

/// How much of the standard output is kept.
const OUTPUT_MAX: usize = 32 << 20;
/// How much of the standard error is kept; the rest is read and dropped.
const ERROR_OUTPUT_MAX: usize = 64 << 10;
/// Time between two checks of whether a program has exited that has closed its outputs or left them to others.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// How a program ended.
pub(super) struct ProgramEnd {
    /// Its exit status; `None` if it was killed at the time limit.
    pub(super) status: Option<ExitStatus>,
    /// Its standard output.
    pub(super) output: Vec<u8>,
    /// The beginning of its standard error.
    pub(super) error_output: Vec<u8>,
    /// Whether its standard output was longer than what is kept.
    pub(super) is_cut: bool,
}

/// Runs a child with three pipes until it exits, for at most `limit`. Its process group is killed at the limit, and
/// when a process of the group outlives the child.
///
/// # Errors
/// When the system cannot wait for it.
pub(super) fn run(child: &mut Child, input: &str, limit: Duration) -> io::Result<ProgramEnd> {
    let deadline = clock::steady().plus(limit);
    let mut stdin = Feed::new(child.stdin.take(), input.as_bytes())?;
    let mut stdout = Outlet::new(child.stdout.take(), OUTPUT_MAX)?;
    let mut stderr = Outlet::new(child.stderr.take(), ERROR_OUTPUT_MAX)?;
    let mut buffer = vec![0; CHUNK];
    let status = loop {
        // The exit status is checked first, so that the output read afterward is complete.
        let status = child.try_wait()?;
        stdin.write();
        stdout.read(&mut buffer);
        stderr.read(&mut buffer);
        if status.is_some() {
            break status;
        }
        let left = deadline.since(clock::steady());
        if left.is_zero() {
            kill_group(child);
            child.wait()?;
            break None;
        }
        wait(&stdin, &stdout, &stderr, left.min(CHECK_INTERVAL))?;
    };
    if stdout.pipe.is_some() || stderr.pipe.is_some() {
        kill_group(child);
    }
    Ok(ProgramEnd { status, output: stdout.kept, error_output: stderr.kept, is_cut: stdout.is_cut })
}

/// The part of the input that is not yet written.
struct Feed<'a, W> {
    pipe: Option<W>,
    rest: &'a [u8],
}

impl<'a, W: Write + AsFd> Feed<'a, W> {
    fn new(pipe: Option<W>, rest: &'a [u8]) -> io::Result<Self> {
        pipe.iter().try_for_each(make_nonblocking)?;
        Ok(Self { pipe, rest })
    }

    /// Writes as much as the pipe accepts, and closes it after the last byte. If a program does not read its input, its
    /// standard error gives the reason, which is the better message.
    fn write(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            if self.rest.is_empty() {
                self.pipe = None;
                return;
            }
            match pipe.write(self.rest) {
                Ok(length) => self.rest = self.rest.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// One output stream.
struct Outlet<R> {
    /// `None` at its end.
    pipe: Option<R>,
    kept: Vec<u8>,
    limit: usize,
    is_cut: bool,
}

impl<R: Read + AsFd> Outlet<R> {
    fn new(pipe: Option<R>, limit: usize) -> io::Result<Self> {
        pipe.iter().try_for_each(make_nonblocking)?;
        Ok(Self { pipe, kept: Vec::new(), limit, is_cut: false })
    }

    /// Reads what is available.
    fn read(&mut self, buffer: &mut [u8]) {
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    let room = self.limit.saturating_sub(self.kept.len());
                    self.is_cut |= length > room;
                    self.kept.extend(buffer.iter().take(length.min(room)));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

fn make_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    // Only our end: the two ends of a pipe have separate flags.
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Waits until a pipe is ready, at most `limit`.
fn wait(
    stdin: &Feed<'_, impl AsFd>,
    stdout: &Outlet<impl AsFd>,
    stderr: &Outlet<impl AsFd>,
    limit: Duration,
) -> io::Result<()> {
    let feed = stdin.pipe.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
    let output = stdout.pipe.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
    let error_output = stderr.pipe.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
    let mut polled: Vec<_> = feed.chain(output).chain(error_output).collect();
    let timeout = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX).max(1);
    match poll(&mut polled, PollTimeout::from(timeout)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
