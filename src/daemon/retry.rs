//! Orders that found no room in the firewall. What has expired still takes room there until the kernel collects it,
//! about once a second while nothing else changes the set: so they are tried once more, one after the other, and the
//! first that finds no room again spares the kernel those behind it.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::ipc::ReplyPath;
use crate::os::poll::Polled;
use spa_knock_core::auth::Authorized;
use spa_knock_core::knock::Steady;

/// Before they are tried again.
const AFTER: Duration = Duration::from_secs(2);
/// So many wait at a time; of more, each fails at once.
const MAX: usize = 1_000;

/// Those that wait, the first in front.
#[derive(Default)]
pub(super) struct RetryQueue(VecDeque<RetryEntry>);

struct RetryEntry {
    due: Steady,
    authorized: Authorized,
    reply_path: ReplyPath,
}

impl RetryQueue {
    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < MAX
    }

    /// Keeps it for a while.
    pub(super) fn add(&mut self, authorized: Authorized, reply_path: ReplyPath, now: Steady) {
        self.0.push_back(RetryEntry { due: now.plus(AFTER), authorized, reply_path });
    }

    /// The first one, if it has waited long enough by `now`.
    pub(super) fn take_due(&mut self, now: Steady) -> Option<(Authorized, ReplyPath)> {
        let due = self.deadline().is_some_and(|due| due <= now);
        let waiting = due.then(|| self.0.pop_front()).flatten()?;
        Some((waiting.authorized, waiting.reply_path))
    }
}

impl Polled for RetryQueue {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When the first one is due.
    fn deadline(&self) -> Option<Steady> {
        self.0.front().map(|waiting| waiting.due)
    }
}
