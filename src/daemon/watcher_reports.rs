//! Receives the watcher's reports, including the last ones of a watcher that is being replaced. `knocks.rs` judges the
//! knocks in them.

use std::os::fd::AsFd;
use std::time::Duration;

use super::event_loop::{BATCH, Daemon};
use crate::config::client_keys::LoadedClient;
use crate::ipc::{FromShell, FromWatcher, MESSAGE};
use crate::os::{clock, poll};
use crate::supervisor::child::Disconnected;
use crate::supervisor::watcher_process::WatcherProcess;
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::crypto::Fingerprint;

/// The largest number of reports read from a watcher that is being replaced; more than its channel can hold.
const LEFT_MAX: usize = 1024;
/// How long a watcher may take to report its counters.
pub(super) const COUNT_MAX: Duration = Duration::from_millis(200);

impl Daemon {
    /// Reads and handles the watcher's reports.
    pub(super) fn drain_reports(&mut self) {
        let mut buffer = [0; MESSAGE];
        for _ in 0..BATCH {
            let length = match self.supervisor.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => return,
                // The service manager stops the watcher and the keeper together.
                Err(Disconnected) if self.signals.stop() => return,
                Err(Disconnected) => return self.supervisor.on_exit("watcher: exited"),
            };
            match FromWatcher::read(buffer.get(..length).unwrap_or_default()) {
                Some(FromWatcher::Knock(received)) => self.judge(&received),
                Some(FromWatcher::Sequence(sequence)) => self.judge_sequence(&sequence),
                Some(FromWatcher::Stats(seen)) => {
                    if let Some(watcher) = self.supervisor.watcher() {
                        watcher.record_stats(seen);
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
                    return self.supervisor.on_exit("watcher: sent an invalid message");
                }
            }
        }
    }

    /// Handles the knocks and counters that a watcher had sent before it was replaced, then retires it.
    pub(super) fn drain_retired(&mut self, old: Option<WatcherProcess>) {
        let Some(mut old) = old else { return };
        let deadline = clock::steady().plus(COUNT_MAX);
        // Asked for its counters only after all earlier reports are read, so that the counters are final.
        let mut asked = None;
        let mut buffer = [0; MESSAGE];
        for _ in 0..LEFT_MAX {
            let length = match old.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) if asked.is_none() && old.request_stats() => {
                    asked = Some(clock::steady());
                    continue;
                }
                Ok(None) if asked > old.reported_at() && clock::steady() < deadline => {
                    let left = deadline.since(clock::steady());
                    let _ = poll::readable(&[old.as_fd()], left);
                    continue;
                }
                Ok(None) | Err(Disconnected) => break,
            };
            match FromWatcher::read(buffer.get(..length).unwrap_or_default()) {
                Some(FromWatcher::Knock(received)) => self.judge(&received),
                Some(FromWatcher::Sequence(sequence)) => self.judge_sequence(&sequence),
                Some(FromWatcher::Stats(seen)) => old.record_stats(seen),
                Some(FromWatcher::Throttled(key, count)) => self.note_throttled(key, count),
                _ => {}
            }
        }
        self.supervisor.retire(old);
    }

    /// Reports to a new watcher from where clients of protocol version 2 knocked last: these addresses have a limit of
    /// their own there. Continues at the next call where there is no more room.
    pub(super) fn inform_watcher(&mut self) {
        if self.informed != self.supervisor.since() {
            self.informed = self.supervisor.since();
            let keys = self.setup.clients.iter().flat_map(LoadedClient::key_sets);
            self.to_report = keys.map(|key| key.fingerprint).collect();
        }
        let Some(watcher) = self.supervisor.watcher() else { return };
        while let Some(&key) = self.to_report.last() {
            if let Some(source) = self.keeper.usual_source(key)
                && !watcher.set_usual_source(key, source)
            {
                return;
            }
            self.to_report.pop();
        }
    }

    /// Records a new address from which the client with this key knocks; the watcher will know it for all of its keys.
    pub(super) fn note_source(&mut self, key: Fingerprint) {
        if let Some(source) = self.keeper.replay().sources().of(key) {
            self.state.record_source(key, source);
        }
        let name = self.keeper.name_of(key);
        let clients = self.setup.clients.iter().filter(|client| Some(&client.name) == name);
        self.to_report.extend(clients.flat_map(LoadedClient::key_sets).map(|keys| keys.fingerprint));
    }

    /// Records that knocks of this key were dropped because they exceeded its limit.
    pub(super) fn note_throttled(&mut self, key: Fingerprint, count: u64) {
        // A key that was removed in the meantime is not recorded.
        let Some(client) = self.keeper.name_of(key).cloned() else { return };
        let record = AuditRecord::throttled(client.clone());
        let total = self.throttled.entry(client).or_default();
        *total = total.saturating_add(count);
        self.audit.write_many(&record, count, clock::wall());
    }
}
