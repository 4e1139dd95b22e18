//! What the watcher reports to the keeper, and what a watcher that is replaced has reported last. `knocks.rs` judges the
//! knocks in it.

use std::os::fd::AsFd;
use std::time::Duration;

use super::event_loop::{BATCH, Daemon};
use crate::ipc::{FromShell, FromWatcher, MESSAGE};
use crate::os::{clock, poll};
use crate::supervisor::child::Disconnected;
use crate::supervisor::watcher_process::WatcherProcess;
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::crypto::Fingerprint;

/// What an old watcher's channel can hold, and more.
const LEFT_MAX: usize = 1024;
/// How long a watcher may take to say what it has seen.
pub(super) const COUNT_MAX: Duration = Duration::from_millis(200);

impl Daemon {
    /// Takes what the watcher reports.
    pub(super) fn drain_reports(&mut self) {
        let mut buffer = [0; MESSAGE];
        for _ in 0..BATCH {
            let length = match self.supervisor.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => return,
                // It ends as we do when the service manager stops us all.
                Err(Disconnected) if self.signals.stop() => return,
                Err(Disconnected) => return self.supervisor.on_exit("the watcher ended"),
            };
            match FromWatcher::read(buffer.get(..length).unwrap_or_default()) {
                Some(FromWatcher::Knock(received)) => self.judge(&received),
                Some(FromWatcher::Sequence(sequence)) => self.judge_sequence(&sequence),
                Some(FromWatcher::Stats(seen)) => {
                    if let Some(watcher) = self.supervisor.watcher() {
                        watcher.note(seen);
                    }
                }
                Some(FromWatcher::Throttled(key, count)) => self.note_throttled(key, count),
                Some(FromWatcher::Shell(FromShell::Lost(reason))) => {
                    self.supervisor.on_interface_lost(&reason)
                }
                Some(FromWatcher::Shell(FromShell::Failed(reason))) => {
                    return self.supervisor.on_exit(&reason);
                }
                Some(FromWatcher::Shell(FromShell::Watching | FromShell::Version(_))) | None => {
                    return self.supervisor.on_exit("the watcher talks nonsense");
                }
            }
        }
    }

    /// What a watcher that is replaced had passed on already still counts, and so does what it has seen.
    pub(super) fn drain_retired(&mut self, old: Option<WatcherProcess>) {
        let Some(mut old) = old else { return };
        let deadline = clock::steady().plus(COUNT_MAX);
        // Asked once nothing is left from before, so that its answer is its last word.
        let mut asked = None;
        let mut buffer = [0; MESSAGE];
        for _ in 0..LEFT_MAX {
            let length = match old.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) if asked.is_none() && old.ask() => {
                    asked = Some(clock::steady());
                    continue;
                }
                Ok(None) if asked > old.told() && clock::steady() < deadline => {
                    let left = deadline.since(clock::steady());
                    let _ = poll::readable(&[old.as_fd()], left);
                    continue;
                }
                Ok(None) | Err(Disconnected) => break,
            };
            match FromWatcher::read(buffer.get(..length).unwrap_or_default()) {
                Some(FromWatcher::Knock(received)) => self.judge(&received),
                Some(FromWatcher::Sequence(sequence)) => self.judge_sequence(&sequence),
                Some(FromWatcher::Stats(seen)) => old.note(seen),
                Some(FromWatcher::Throttled(key, count)) => self.note_throttled(key, count),
                _ => {}
            }
        }
        self.supervisor.retire(old);
    }

    /// The watcher has dropped knocks of this key that were over its limit.
    fn note_throttled(&mut self, key: Fingerprint, count: u64) {
        // Of a key that was removed in the meantime, nothing is said.
        let Some(client) = self.keeper.name_of(key).cloned() else { return };
        let record = AuditRecord::throttled(client.clone());
        let total = self.throttled.entry(client).or_default();
        *total = total.saturating_add(count);
        self.audit.write_many(&record, count, clock::wall());
    }
}
