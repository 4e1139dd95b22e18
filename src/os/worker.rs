//! A thread for work that takes long, such as flushing a file or running a program, so that no event loop waits for it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};

type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// The thread, as the event loop sees it. `T` is the result of its work.
pub struct Worker<T> {
    asked: Option<Sender<Work<T>>>,
    done: Receiver<T>,
    /// Queued or running, or ended and not reported yet.
    under_way: usize,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start() -> io::Result<Self> {
        let (wake, mut waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (asked, orders) = channel::<Work<T>>();
        let (finished, done) = channel();
        let thread = spawn(move || {
            for work in orders {
                // Without a receiver the process is about to end.
                if finished.send(work()).is_err() || waker.write_all(&[0]).is_err() {
                    return;
                }
            }
        });
        Ok(Self { asked: Some(asked), done, under_way: 0, wake, thread: Some(thread) })
    }

    /// Queues work behind what was queued before.
    pub fn ask(&mut self, work: impl FnOnce() -> T + Send + 'static) {
        if let Some(asked) = &self.asked
            && asked.send(Box::new(work)).is_ok()
        {
            self.under_way = self.under_way.saturating_add(1);
        }
    }

    /// Whether nothing is queued or running, as far as `finished` has reported.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// The results since the last call.
    pub fn finished(&mut self) -> Vec<T> {
        self.drain();
        let finished: Vec<T> = self.done.try_iter().collect();
        self.under_way = self.under_way.saturating_sub(finished.len());
        finished
    }

    /// Waits until the queue is empty; the results since the last call.
    pub fn settle(&mut self) -> Vec<T> {
        // An end of the list before its time means that the thread is gone, and nothing is under way.
        let finished = self.done.iter().take(self.under_way).collect();
        self.under_way = 0;
        self.drain();
        finished
    }

    /// Drains the descriptor.
    fn drain(&mut self) {
        let mut bytes = [0; 16];
        while self.wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
    }

    /// Readable when work has ended.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            // It has no way to panic.
            let _ = thread.join();
        }
    }
}
