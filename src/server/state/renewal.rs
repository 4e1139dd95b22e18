//! A thread that only writes the lease and waits for the disk, so that no knock has to.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};

use crate::knock::Timestamp;
use crate::os::files::{self, Mode};

/// The thread, as the keeper sees it.
pub(super) struct Renewal {
    asked: Option<Sender<(Timestamp, String)>>,
    done: Receiver<Result<Timestamp, String>>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
    waiting: bool,
}

impl Renewal {
    /// Starts it, for the lease at this path.
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (wake, mut waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (asked, orders) = channel::<(Timestamp, String)>();
        let (finished, done) = channel();
        let thread = spawn(move || {
            for (until, text) in orders {
                let outcome = files::replace(&path, Mode::Private, text.as_bytes());
                let outcome = outcome.map(|()| until).map_err(|error| error.to_string());
                // When nobody listens any more, the daemon is about to end.
                if finished.send(outcome).is_err() || waker.write_all(&[0]).is_err() {
                    return;
                }
            }
        });
        Ok(Self { asked: Some(asked), done, wake, thread: Some(thread), waiting: false })
    }

    /// Asks for a lease with this text, which reaches `until`; one at a time.
    pub(super) fn ask(&mut self, until: Timestamp, text: String) {
        if self.waiting {
            return;
        }
        if let Some(asked) = &self.asked {
            self.waiting = asked.send((until, text)).is_ok();
        }
    }

    /// What became of what was asked for: how far the lease reaches now, or why not.
    pub(super) fn finished(&mut self) -> Vec<Result<Timestamp, String>> {
        let mut bytes = [0; 16];
        while self.wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
        let finished: Vec<_> = self.done.try_iter().collect();
        self.waiting &= finished.is_empty();
        finished
    }

    /// Waits for what has been asked for; what became of it no longer matters.
    pub(super) fn settle(&mut self) {
        if self.waiting {
            // An error means that the thread is gone, and nothing is under way.
            let _ = self.done.recv();
            self.waiting = false;
        }
    }

    /// Readable when something is finished.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Waits until nothing is under way; nothing can be asked for from then on.
    pub(super) fn stop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            // It has no way to panic.
            let _ = thread.join();
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop();
    }
}
