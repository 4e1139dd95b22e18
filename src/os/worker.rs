//! A thread for slow work, such as flushing a file or running a program, so that no event loop waits for it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};

type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// Handle to the thread. `T` is the result of its work.
pub struct Worker<T> {
    tasks: Option<Sender<Work<T>>>,
    results: Receiver<T>,
    /// Tasks that are queued, running, or finished but not yet reported.
    pending: usize,
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
        let (tasks, received) = channel::<Work<T>>();
        let (finished, results) = channel();
        let thread = spawn(move || {
            for work in received {
                // Without a receiver, the process is about to exit.
                if finished.send(work()).is_err() || waker.write_all(&[0]).is_err() {
                    return;
                }
            }
        });
        Ok(Self { tasks: Some(tasks), results, pending: 0, wake, thread: Some(thread) })
    }

    /// Queues work behind the work queued before.
    pub fn submit(&mut self, work: impl FnOnce() -> T + Send + 'static) {
        if let Some(tasks) = &self.tasks
            && tasks.send(Box::new(work)).is_ok()
        {
            self.pending = self.pending.saturating_add(1);
        }
    }

    /// Whether all queued work has been reported by `finished`.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.pending == 0
    }

    /// Returns the results since the last call.
    pub fn finished(&mut self) -> Vec<T> {
        self.drain();
        let finished: Vec<T> = self.results.try_iter().collect();
        self.pending = self.pending.saturating_sub(finished.len());
        finished
    }

    /// Waits until the queue is empty. Returns the results since the last call.
    pub fn settle(&mut self) -> Vec<T> {
        // If the list ends early, the thread is gone and nothing is pending.
        let finished = self.results.iter().take(self.pending).collect();
        self.pending = 0;
        self.drain();
        finished
    }

    /// Drains the descriptor.
    fn drain(&mut self) {
        let mut bytes = [0; 16];
        while self.wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
    }

    /// Descriptor that is readable when work has finished.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic.
            let _ = thread.join();
        }
    }
}
