//! Feeds a program and reads its outputs until it ends. What it leaves behind is never waited for: a process that it
//! has started may keep its pipes open for as long as it likes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::kill_group;
use crate::os::clock;

/// What is kept of an output.
const OUTPUT_MAX: usize = 32 << 20;
/// What is kept of the complaints; the rest is read and dropped.
const COMPLAINT_MAX: usize = 64 << 10;
/// Between two looks at whether a program has ended that has closed its outputs, or left them to others.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// How a program has ended.
pub(super) struct ProgramEnd {
    /// Its exit; `None` if it was killed at the limit.
    pub(super) status: Option<ExitStatus>,
    /// Its standard output.
    pub(super) output: Vec<u8>,
    /// The first of its standard error.
    pub(super) complaint: Vec<u8>,
    /// Whether it has printed more than is kept.
    pub(super) is_cut: bool,
}

/// Runs a child with three pipes to its end, for at most `limit`. Its group is killed at the limit, and when a process of
/// the group outlives it.
///
/// # Errors
/// When the system cannot wait for it.
pub(super) fn run(child: &mut Child, input: &str, limit: Duration) -> io::Result<ProgramEnd> {
    let deadline = clock::steady().plus(limit);
    let mut stdin = Feed::new(child.stdin.take(), input.as_bytes())?;
    let mut stdout = Outlet::new(child.stdout.take(), OUTPUT_MAX)?;
    let mut stderr = Outlet::new(child.stderr.take(), COMPLAINT_MAX)?;
    let mut buffer = vec![0; CHUNK];
    let status = loop {
        // The exit first: what is read after it is all that the program itself has printed.
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
        wait(&stdin, &stdout, &stderr, left.min(LOOK_EVERY))?;
    };
    if stdout.pipe.is_some() || stderr.pipe.is_some() {
        kill_group(child);
    }
    Ok(ProgramEnd { status, output: stdout.kept, complaint: stderr.kept, is_cut: stdout.is_cut })
}

/// The input, as far as it is not written.
struct Feed<'a, W> {
    pipe: Option<W>,
    rest: &'a [u8],
}

impl<'a, W: Write + AsFd> Feed<'a, W> {
    fn new(pipe: Option<W>, rest: &'a [u8]) -> io::Result<Self> {
        pipe.iter().try_for_each(make_nonblocking)?;
        Ok(Self { pipe, rest })
    }

    /// Writes what the pipe takes, and closes it after the last byte. A program that does not read its input gives the
    /// reason on its standard error, which is the better message.
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

/// One of the outputs.
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

    /// Reads what is there.
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
    // Our end alone: a pipe's two ends have their flags apart.
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
    let complaint = stderr.pipe.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
    let mut polled: Vec<_> = feed.chain(output).chain(complaint).collect();
    let timeout = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX).max(1);
    match poll(&mut polled, PollTimeout::from(timeout)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
