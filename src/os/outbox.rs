//! A bounded queue with a thread that writes its items, so that no caller waits for a disk, a pipe or a terminal. Items
//! that find no room are lost and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{clock, files};

/// Destination of the thread's writes.
pub trait Sink<T>: Send + 'static {
    /// Prepares for writing. Called before the first item, and repeatedly while it fails.
    ///
    /// # Errors
    /// Why nothing can be written, as human-readable text.
    fn open(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Writes one item. May block.
    ///
    /// # Errors
    /// Why it was not written, as human-readable text.
    fn write(&mut self, item: &T) -> Result<(), String>;

    /// Writes a note that `count` items before this one are lost. Called once writing works again.
    ///
    /// # Errors
    /// Why the note was not written; it is retried later.
    fn write_loss(&mut self, count: u64) -> Result<(), String>;

    /// Called when writing fails for the first time after it worked.
    fn failed(&mut self, _reason: &str) {}

    /// Called when writing works again.
    fn recovered(&mut self) {}
}

/// What happens to an item that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is lost.
    Drop,
    /// It is retried after this time, and the items behind it wait.
    Retry(Duration),
}

/// The state of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboxState {
    /// Number of waiting items.
    pub waiting: usize,
    /// Number of items lost since the start.
    pub lost: u64,
    /// Why writing currently fails.
    pub error: Option<String>,
}

/// The queue. Dropping it ends the thread after everything that can be written is written.
pub struct Outbox<T, S> {
    shared: Arc<SharedQueue<T, S>>,
    room: usize,
}

struct SharedQueue<T, S> {
    inner: Mutex<Inner<T, S>>,
    /// Signals new work.
    work: Condvar,
    /// Signals that work has been done.
    progress: Condvar,
}

struct Inner<T, S> {
    queue: VecDeque<Arc<T>>,
    next_sink: Option<S>,
    lost: u64,
    error: Option<String>,
    closed: bool,
}

/// The thread's next task.
enum Task<T> {
    Open,
    Write(Arc<T>),
}

impl<T: Send + Sync + 'static, S: Sink<T>> Outbox<T, S> {
    /// Starts the thread. At most `room` items can wait.
    #[must_use]
    pub fn start(sink: S, room: usize, on_failure: OnFailure) -> Self {
        let shared = Arc::new(SharedQueue {
            inner: Mutex::new(Inner {
                queue: VecDeque::new(),
                next_sink: None,
                lost: 0,
                error: None,
                closed: false,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        // The thread is not joined, because a write may never return.
        thread::spawn(move || of_thread.work(sink, on_failure));
        Self { shared, room }
    }

    /// Queues an item. Returns whether there was room.
    pub fn push(&self, item: T) -> bool {
        let mut inner = self.shared.lock();
        if inner.queue.len() >= self.room {
            inner.lost = inner.lost.saturating_add(1);
            return false;
        }
        inner.queue.push_back(Arc::new(item));
        drop(inner);
        self.shared.work.notify_one();
        true
    }

    /// Replaces the sink, also for items that are already waiting.
    pub fn replace_sink(&self, sink: S) {
        self.shared.lock().next_sink = Some(sink);
        self.shared.work.notify_one();
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> OutboxState {
        let inner = self.shared.lock();
        OutboxState { waiting: inner.queue.len(), lost: inner.lost, error: inner.error.clone() }
    }

    /// Whether writing works and there is room for `places` more items.
    #[must_use]
    pub fn has_room_for(&self, places: usize) -> bool {
        let inner = self.shared.lock();
        inner.error.is_none() && inner.queue.len().saturating_add(places) <= self.room
    }

    /// Waits until all items are written, writing fails, or `limit` has passed. Returns the number of waiting items.
    pub fn flush(&self, limit: Duration) -> usize {
        let deadline = clock::steady().plus(limit);
        let mut inner = self.shared.lock();
        while !inner.queue.is_empty() && inner.error.is_none() {
            let left = deadline.since(clock::steady());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.progress.wait_timeout(inner, left);
            inner = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(inner, _)| inner);
        }
        inner.queue.len()
    }
}

impl<T, S> Drop for Outbox<T, S> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
    }
}

impl<T, S> SharedQueue<T, S> {
    fn lock(&self) -> MutexGuard<'_, Inner<T, S>> {
        // After a panic, the numbers and the queue are still valid.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, S: Sink<T>> SharedQueue<T, S> {
    fn work(&self, mut sink: S, on_failure: OnFailure) {
        let (mut reported, mut failing) = (0_u64, false);
        let mut task = Some(Task::Open);
        while let Some(now) = task {
            // The lock is not held here, because this may block forever.
            let lost = self.lock().lost;
            let written = match &now {
                Task::Open => sink.open(),
                Task::Write(item) => sink.write(item).and_then(|()| match lost.saturating_sub(reported) {
                    0 => Ok(()),
                    // If this fails, the loss is noted after the next item.
                    more => sink.write_loss(more).map(|()| reported = lost).or(Ok(())),
                }),
            };
            if failing != written.is_err() {
                failing = !failing;
                match &written {
                    Ok(()) => sink.recovered(),
                    Err(reason) => sink.failed(reason),
                }
            }
            let mut inner = self.lock();
            let done = written.is_ok() || on_failure == OnFailure::Drop;
            if done && matches!(now, Task::Write(_)) {
                inner.queue.pop_front();
                inner.lost = inner.lost.saturating_add(u64::from(written.is_err()));
            }
            inner.error = written.err();
            self.progress.notify_all();
            task = match on_failure {
                OnFailure::Retry(pause) if !done => self.next_after_pause(inner, pause, &mut sink),
                _ => self.next(inner, &mut sink),
            };
        }
    }

    /// Waits for the first item, which stays in the queue; `None` after the outbox is closed and empty.
    fn next(&self, mut inner: MutexGuard<'_, Inner<T, S>>, sink: &mut S) -> Option<Task<T>> {
        loop {
            if let Some(next) = inner.next_sink.take() {
                *sink = next;
                return Some(Task::Open);
            }
            if let Some(item) = inner.queue.front() {
                return Some(Task::Write(Arc::clone(item)));
            }
            if inner.closed {
                return None;
            }
            inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same after a failure: waits before the retry.
    fn next_after_pause(
        &self,
        inner: MutexGuard<'_, Inner<T, S>>,
        pause: Duration,
        sink: &mut S,
    ) -> Option<Task<T>> {
        let is_idle = |inner: &mut Inner<T, S>| !inner.closed && inner.next_sink.is_none();
        let waited = self.work.wait_timeout_while(inner, pause, is_idle);
        let inner = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(inner, _)| inner);
        if inner.closed {
            return None;
        }
        if inner.queue.is_empty() && inner.next_sink.is_none() {
            return Some(Task::Open);
        }
        self.next(inner, sink)
    }
}

/// Formats an I/O error as a reason.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    files::io_error_text(error)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A sink that sends its calls to a channel, and fails on request.
    struct Recorder {
        calls: Sender<String>,
        works: Arc<Mutex<bool>>,
    }

    impl Sink<u32> for Recorder {
        fn write(&mut self, item: &u32) -> Result<(), String> {
            if !*self.works.lock().unwrap() {
                return Err("full".to_owned());
            }
            self.calls.send(item.to_string()).map_err(|error| error.to_string())
        }

        fn write_loss(&mut self, count: u64) -> Result<(), String> {
            self.calls.send(format!("lost {count}")).map_err(|error| error.to_string())
        }

        fn failed(&mut self, reason: &str) {
            let _ = self.calls.send(format!("failed: {reason}"));
        }

        fn recovered(&mut self) {
            let _ = self.calls.send("recovered".to_owned());
        }
    }

    fn outbox(
        room: usize,
        on_failure: OnFailure,
    ) -> (Outbox<u32, Recorder>, Receiver<String>, Arc<Mutex<bool>>) {
        let (calls, recorded) = channel();
        let works = Arc::new(Mutex::new(true));
        let sink = Recorder { calls, works: Arc::clone(&works) };
        (Outbox::start(sink, room, on_failure), recorded, works)
    }

    fn next(recorded: &Receiver<String>) -> String {
        recorded.recv_timeout(SOON).unwrap()
    }

    #[test]
    fn unwritten_items_wait_and_items_without_room_are_counted() {
        let (outbox, recorded, works) = outbox(3, OnFailure::Retry(Duration::from_millis(5)));
        *works.lock().unwrap() = false;
        assert_eq!((0..8).filter(|item| outbox.push(*item)).count(), 3);
        assert_eq!(next(&recorded), "failed: full");
        assert_eq!(
            (outbox.flush(SOON), outbox.has_room_for(0)),
            (3, false),
            "flush returns when writing fails"
        );
        let state = OutboxState { waiting: 3, lost: 5, error: Some("full".to_owned()) };
        assert_eq!(outbox.state(), state);
        *works.lock().unwrap() = true;
        let mut written: Vec<_> = (0..5).map(|_| next(&recorded)).collect();
        written.sort();
        assert_eq!(written, ["0", "1", "2", "lost 5", "recovered"]);
        assert_eq!(outbox.flush(SOON), 0);
        assert_eq!(outbox.state(), OutboxState { waiting: 0, lost: 5, error: None });
        assert!(outbox.has_room_for(3) && !outbox.has_room_for(4));
    }

    #[test]
    fn a_failed_write_without_retries_is_a_loss() {
        let (outbox, recorded, works) = outbox(8, OnFailure::Drop);
        *works.lock().unwrap() = false;
        assert!(outbox.push(1));
        assert_eq!(next(&recorded), "failed: full");
        outbox.flush(SOON);
        *works.lock().unwrap() = true;
        assert!(outbox.push(2));
        assert_eq!([next(&recorded), next(&recorded), next(&recorded)], ["2", "lost 1", "recovered"]);
        drop(outbox);
        assert!(recorded.recv_timeout(SOON).is_err(), "the thread has ended and dropped its sink");
    }

    #[test]
    fn waiting_items_go_to_the_next_sink() {
        let (outbox, recorded, works) = outbox(3, OnFailure::Retry(SOON));
        *works.lock().unwrap() = false;
        assert!(outbox.push(7));
        assert_eq!(next(&recorded), "failed: full");
        let (calls, other) = channel();
        outbox.replace_sink(Recorder { calls, works: Arc::new(Mutex::new(true)) });
        assert_eq!([next(&other), next(&other)], ["recovered", "7"]);
    }
}
