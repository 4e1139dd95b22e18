//! What the store process sends: answers, entries, reports.

use super::claims::ClaimedKnock;
use super::member::{FleetEvent, FleetMember};
use crate::fleet::ipc::{FromStore, OutcomeMessage, StoreReport, from_hex};
use spa_knock_core::knock::{Now, Steady};
use spa_knock_fleet::keys::StoreKey;

/// How many messages are read in one turn of the loop.
const BATCH: usize = 64;

impl FleetMember {
    pub(super) fn receive(&mut self, now: Now) {
        for _ in 0..BATCH {
            let Some(process) = &mut self.process else { return };
            match process.try_recv() {
                Ok(None) => break,
                Ok(Some(message)) => self.handle(message, now),
                Err(_) => return self.lose_process("has exited"),
            }
        }
        if self.process.as_mut().is_some_and(|process| process.kill_if_silent(now.steady).is_some()) {
            self.lose_process("hangs");
        }
    }

    fn handle(&mut self, message: FromStore, now: Now) {
        match message {
            FromStore::Claimed { ticket, outcome, micros } => {
                let Some(knock) = self.waiting.take(ticket) else { return };
                self.stats.count(outcome.name());
                let is_answer = !matches!(outcome, OutcomeMessage::Unknown(_));
                if is_answer {
                    self.stats.time(micros);
                }
                self.claimed.push(ClaimedKnock { knock, outcome, micros: is_answer.then_some(micros) });
            }
            FromStore::Begin => {
                self.policy.begin();
                self.grants.begin();
            }
            FromStore::Entry { key, value, lease_left } => {
                let value = value.map(|value| from_hex(&value).unwrap_or_default());
                self.apply(&key, value.as_deref(), lease_left, now);
            }
            FromStore::Complete { revision } => {
                // Not for each record of a member: each one that publishes the revision would be a change itself.
                if std::mem::take(&mut self.has_policy_changes) || !self.is_synced {
                    self.revision = revision;
                }
                (self.is_synced, self.last_complete) = (true, Some(now.steady));
                self.policy.complete();
                let closed = self.grants.complete(now.steady);
                self.events.extend(closed.into_iter().map(FleetEvent::Grant));
                if self.policy.take_change() {
                    self.events.push_back(FleetEvent::ClientsChanged);
                }
            }
            FromStore::Report(report) => self.note_report(*report, now.steady),
            FromStore::Failed(reason) => {
                log::error!("fleet: store process: {reason}");
                self.problem = Some(reason);
            }
            FromStore::Version(_) | FromStore::Running { .. } => {}
        }
    }

    fn apply(&mut self, key: &str, value: Option<&[u8]>, lease_left: Option<u64>, now: Now) {
        let key = self.space.parse(format!("{}{key}", self.space.prefix()).as_bytes());
        self.has_policy_changes |=
            matches!(key, Some(StoreKey::PolicyClient(_) | StoreKey::PolicyRevoked(_)));
        let applied = match &key {
            Some(StoreKey::PolicyClient(client)) => {
                self.policy.apply_client(client, value).map_err(|error| error.to_string())
            }
            Some(revoked @ StoreKey::PolicyRevoked(_)) => {
                match self.policy.apply_revocation(revoked, value) {
                    Ok(fingerprint) => {
                        self.events.extend(fingerprint.map(FleetEvent::Revoked));
                        Ok(())
                    }
                    Err(error) => Err(error.to_string()),
                }
            }
            Some(StoreKey::Grant(id)) => {
                let change = self.grants.apply(*id, value, lease_left, now, self.basis.window);
                change.map(|change| self.events.extend(change.map(FleetEvent::Grant)))
            }
            _ => Ok(()),
        };
        if let Err(reason) = applied {
            log::error!("fleet: {reason}");
        }
    }

    fn note_report(&mut self, report: StoreReport, now: Steady) {
        let before = self.report.take().map(|(report, _)| report);
        let went_back = before.and_then(|before| before.went_back);
        if let Some(reason) = report.went_back.as_ref().filter(|reason| went_back.as_ref() != Some(reason)) {
            log::error!("fleet: {reason}; all knocks are refused");
        }
        self.report = Some((report, now));
    }
}
