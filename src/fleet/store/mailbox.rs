//! What one thread leaves for another one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::os::clock;

/// A value that is changed by one thread and awaited by another.
#[derive(Default)]
pub(super) struct Mailbox<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Mailbox<T> {
    /// Changes the value, and wakes the thread that waits.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value());
        self.changed.notify_one();
        result
    }

    /// Waits until `take` returns something, at most `within`.
    pub(super) fn wait<R>(&self, within: Duration, mut take: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let deadline = clock::steady().plus(within);
        let mut value = self.value();
        loop {
            let taken = take(&mut value);
            let left = deadline.since(clock::steady());
            if taken.is_some() || left.is_zero() {
                return taken;
            }
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn value(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_waits_for_a_change_and_no_longer_than_it_must() {
        let mailbox: Mailbox<Option<u8>> = Mailbox::default();
        assert_eq!(mailbox.wait(Duration::from_millis(20), Option::take), None);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| mailbox.wait(Duration::from_secs(60), Option::take));
            mailbox.change(|value| *value = Some(7));
            assert_eq!(waiting.join().unwrap(), Some(7));
        });
        assert_eq!(mailbox.wait(Duration::ZERO, Option::take), None);
    }
}
