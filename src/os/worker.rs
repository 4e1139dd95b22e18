//! A thread for slow work, such as flushing a file or running a program, so that no event loop waits for it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
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
        let finished: Vec<T> = self.results.iter().take(self.pending).collect();
        // If the list ends early, the thread is gone, or about to be.
        if finished.len() < self.pending {
            self.pass_panic_on();
        }
        self.pending = 0;
        self.drain();
        finished
    }

    /// Drains the descriptor.
    fn drain(&mut self) {
        let mut bytes = [0; 16];
        while self.wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.pass_panic_on();
        }
    }

    /// Panics as the thread did: the work that has panicked, and all that is queued, would be waited for in vain.
    fn pass_panic_on(&mut self) {
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            resume_unwind(panic);
        }
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
            // A panic has been printed, and this process no longer waits for any work.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn work_that_panics_is_not_waited_for() {
        for wait in [Worker::settle, |worker: &mut Worker<u8>| {
            loop {
                let _ = worker.finished();
            }
        }] {
            let mut worker = Worker::start().unwrap();
            worker.submit(|| 1);
            assert_eq!(worker.settle(), [1]);
            worker.submit(|| panic!("a bug"));
            assert!(catch_unwind(AssertUnwindSafe(|| wait(&mut worker))).is_err());
        }
    }
}
