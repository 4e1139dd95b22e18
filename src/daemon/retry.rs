//! Authorized knocks that found the grant set full. Expired grants occupy the set until the kernel removes them, about
//! once a second while nothing else changes the set. Each knock is therefore retried once, in order.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::ipc::ReplyPath;
use crate::os::poll::Polled;
use spa_knock_core::auth::Authorized;
use spa_knock_core::knock::Steady;

/// The delay before the retry.
const AFTER: Duration = Duration::from_secs(2);
/// The largest number of waiting knocks; further ones fail immediately.
const MAX: usize = 1_000;

/// Waiting knocks, oldest first.
#[derive(Default)]
pub(super) struct RetryQueue(VecDeque<RetryEntry>);

struct RetryEntry {
    due: Steady,
    authorized: Authorized,
    reply_path: ReplyPath,
}

impl RetryQueue {
    /// Whether no knock waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is room for another knock.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < MAX
    }

    /// Adds a knock that is retried after 2 s.
    pub(super) fn add(&mut self, authorized: Authorized, reply_path: ReplyPath, now: Steady) {
        self.0.push_back(RetryEntry { due: now.plus(AFTER), authorized, reply_path });
    }

    /// Removes and returns the oldest knock if it is due at `now`.
    pub(super) fn take_due(&mut self, now: Steady) -> Option<(Authorized, ReplyPath)> {
        let due = self.deadline().is_some_and(|due| due <= now);
        let waiting = due.then(|| self.0.pop_front()).flatten()?;
        Some((waiting.authorized, waiting.reply_path))
    }
}

impl Polled for RetryQueue {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When the oldest knock is due.
    fn deadline(&self) -> Option<Steady> {
        self.0.front().map(|waiting| waiting.due)
    }
}
