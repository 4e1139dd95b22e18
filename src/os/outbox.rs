//! A bounded queue and a thread that writes what is in it: who puts something in never waits for a disk, a pipe or a
//! terminal. What finds no room is lost, and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{clock, files};

/// Where the thread writes.
pub trait Sink<T>: Send + 'static {
    /// Makes ready to write. Called before the first item, and again and again while this is what fails.
    ///
    /// # Errors
    /// Why nothing can be written, for people.
    fn open(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Writes one item. May block.
    ///
    /// # Errors
    /// Why it is not written, for people.
    fn write(&mut self, item: &T) -> Result<(), String>;

    /// Notes that so many items before this one are lost. Called once writing works again.
    ///
    /// # Errors
    /// Why this is not written; it is tried again.
    fn write_loss(&mut self, count: u64) -> Result<(), String>;

    /// Called when writing fails for the first time since it worked.
    fn failed(&mut self, _reason: &str) {}

    /// Called when writing works again.
    fn recovered(&mut self) {}
}

/// What becomes of an item that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is lost.
    Drop,
    /// It is tried again after this time, and those behind it wait.
    Retry(Duration),
}

/// How an outbox is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboxState {
    /// Items that wait.
    pub waiting: usize,
    /// Items that are lost, since the start.
    pub lost: u64,
    /// Why writing fails, while it does.
    pub error: Option<String>,
}

/// The queue. Dropping it ends the thread once all is written that can be.
pub struct Outbox<T, S> {
    shared: Arc<SharedQueue<T, S>>,
    room: usize,
}

struct SharedQueue<T, S> {
    inner: Mutex<Inner<T, S>>,
    /// Something is to be done.
    work: Condvar,
    /// Something has been done.
    progress: Condvar,
}

struct Inner<T, S> {
    queue: VecDeque<Arc<T>>,
    next_sink: Option<S>,
    lost: u64,
    error: Option<String>,
    closed: bool,
}

/// What the thread does next.
enum Task<T> {
    Open,
    Write(Arc<T>),
}

impl<T: Send + Sync + 'static, S: Sink<T>> Outbox<T, S> {
    /// Starts the thread. At most `room` items wait.
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
        // Not joined: a write may never return.
        thread::spawn(move || of_thread.work(sink, on_failure));
        Self { shared, room }
    }

    /// Puts an item in; whether there was room.
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

    /// From now on the thread writes here, also what waits.
    pub fn turn_to(&self, sink: S) {
        self.shared.lock().next_sink = Some(sink);
        self.shared.work.notify_one();
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> OutboxState {
        let inner = self.shared.lock();
        OutboxState { waiting: inner.queue.len(), lost: inner.lost, error: inner.error.clone() }
    }

    /// Whether writing works and at least `places` more items find room.
    #[must_use]
    pub fn has_room_for(&self, places: usize) -> bool {
        let inner = self.shared.lock();
        inner.error.is_none() && inner.queue.len().saturating_add(places) <= self.room
    }

    /// Waits until all is written, writing fails, or `limit` is over; how many items still wait.
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
        // Whoever panicked has left numbers and a queue, which are valid at any time.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, S: Sink<T>> SharedQueue<T, S> {
    fn work(&self, mut sink: S, on_failure: OnFailure) {
        let (mut told, mut failing) = (0_u64, false);
        let mut task = Some(Task::Open);
        while let Some(now) = task {
            // The lock is not held here: this may take for ever.
            let lost = self.lock().lost;
            let written = match &now {
                Task::Open => sink.open(),
                Task::Write(item) => sink.write(item).and_then(|()| match lost.saturating_sub(told) {
                    0 => Ok(()),
                    // What is not noted now is noted after the next item.
                    more => sink.write_loss(more).map(|()| told = lost).or(Ok(())),
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
                OnFailure::Retry(pause) if !done => self.try_again(inner, pause, &mut sink),
                _ => self.next(inner, &mut sink),
            };
        }
    }

    /// Waits for the first item, which stays in the queue; none once there will be no more.
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

    /// The same after a failure: waits before what failed is tried again.
    fn try_again(
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

/// An I/O error as the reason of a sink.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    files::io_error_text(error)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// What a sink was told, and whether it works.
    struct Recorder {
        told: Sender<String>,
        works: Arc<Mutex<bool>>,
    }

    impl Sink<u32> for Recorder {
        fn write(&mut self, item: &u32) -> Result<(), String> {
            if !*self.works.lock().unwrap() {
                return Err("full".to_owned());
            }
            self.told.send(item.to_string()).map_err(|error| error.to_string())
        }

        fn write_loss(&mut self, count: u64) -> Result<(), String> {
            self.told.send(format!("lost {count}")).map_err(|error| error.to_string())
        }

        fn failed(&mut self, reason: &str) {
            let _ = self.told.send(format!("failed: {reason}"));
        }

        fn recovered(&mut self) {
            let _ = self.told.send("recovered".to_owned());
        }
    }

    fn outbox(
        room: usize,
        on_failure: OnFailure,
    ) -> (Outbox<u32, Recorder>, Receiver<String>, Arc<Mutex<bool>>) {
        let (told, hears) = channel();
        let works = Arc::new(Mutex::new(true));
        let sink = Recorder { told, works: Arc::clone(&works) };
        (Outbox::start(sink, room, on_failure), hears, works)
    }

    fn next(hears: &Receiver<String>) -> String {
        hears.recv_timeout(SOON).unwrap()
    }

    #[test]
    fn what_cannot_be_written_waits_and_what_finds_no_room_is_counted() {
        let (outbox, hears, works) = outbox(3, OnFailure::Retry(Duration::from_millis(5)));
        *works.lock().unwrap() = false;
        assert_eq!((0..8).filter(|item| outbox.push(*item)).count(), 3);
        assert_eq!(next(&hears), "failed: full");
        assert_eq!((outbox.flush(SOON), outbox.has_room_for(0)), (3, false), "flush does not wait in vain");
        let state = OutboxState { waiting: 3, lost: 5, error: Some("full".to_owned()) };
        assert_eq!(outbox.state(), state);
        *works.lock().unwrap() = true;
        let mut heard: Vec<_> = (0..5).map(|_| next(&hears)).collect();
        heard.sort();
        assert_eq!(heard, ["0", "1", "2", "lost 5", "recovered"]);
        assert_eq!(outbox.flush(SOON), 0);
        assert_eq!(outbox.state(), OutboxState { waiting: 0, lost: 5, error: None });
        assert!(outbox.has_room_for(3) && !outbox.has_room_for(4));
    }

    #[test]
    fn where_nothing_is_tried_again_a_failure_is_a_loss() {
        let (outbox, hears, works) = outbox(8, OnFailure::Drop);
        *works.lock().unwrap() = false;
        assert!(outbox.push(1));
        assert_eq!(next(&hears), "failed: full");
        outbox.flush(SOON);
        *works.lock().unwrap() = true;
        assert!(outbox.push(2));
        assert_eq!([next(&hears), next(&hears), next(&hears)], ["2", "lost 1", "recovered"]);
        drop(outbox);
        assert!(hears.recv_timeout(SOON).is_err(), "the thread has ended and dropped its sink");
    }

    #[test]
    fn what_waits_goes_to_the_next_sink() {
        let (outbox, hears, works) = outbox(3, OnFailure::Retry(SOON));
        *works.lock().unwrap() = false;
        assert!(outbox.push(7));
        assert_eq!(next(&hears), "failed: full");
        let (told, other) = channel();
        outbox.turn_to(Recorder { told, works: Arc::new(Mutex::new(true)) });
        assert_eq!([next(&other), next(&other)], ["recovered", "7"]);
    }
}
