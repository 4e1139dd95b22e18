//! A thread that only waits for the disk, so that no knock has to.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};

type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// The thread, as the keeper sees it. `T` is what its work ends with.
pub(super) struct Scribe<T> {
    asked: Option<Sender<Work<T>>>,
    done: Receiver<T>,
    /// Work that has not been heard of yet.
    under_way: usize,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Scribe<T> {
    /// Starts it.
    pub(super) fn start() -> io::Result<Self> {
        let (wake, mut waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (asked, orders) = channel::<Work<T>>();
        let (finished, done) = channel();
        let thread = spawn(move || {
            for work in orders {
                // When nobody listens any more, the daemon is about to end.
                if finished.send(work()).is_err() || waker.write_all(&[0]).is_err() {
                    return;
                }
            }
        });
        Ok(Self { asked: Some(asked), done, under_way: 0, wake, thread: Some(thread) })
    }

    /// Has this done, after what was asked for before.
    pub(super) fn ask(&mut self, work: impl FnOnce() -> T + Send + 'static) {
        if let Some(asked) = &self.asked
            && asked.send(Box::new(work)).is_ok()
        {
            self.under_way = self.under_way.saturating_add(1);
        }
    }

    /// What work has ended with since this was last asked.
    pub(super) fn finished(&mut self) -> Vec<T> {
        self.hush();
        let finished: Vec<T> = self.done.try_iter().collect();
        self.under_way = self.under_way.saturating_sub(finished.len());
        finished
    }

    /// Waits for all that is under way.
    pub(super) fn settle(&mut self) -> Vec<T> {
        // An end of the list before its time means that the thread is gone, and nothing is under way.
        let finished = self.done.iter().take(self.under_way).collect();
        self.under_way = 0;
        self.hush();
        finished
    }

    /// Makes the descriptor quiet again.
    fn hush(&mut self) {
        let mut bytes = [0; 16];
        while self.wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
    }

    /// Readable when something is finished.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl<T> Drop for Scribe<T> {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            // It has no way to panic.
            let _ = thread.join();
        }
    }
}
