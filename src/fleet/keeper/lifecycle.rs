//! Starts the store process again when it has ended, keeps what it has seen of the store on disk, and publishes what the
//! member's record contains.

use std::sync::Arc;
use std::time::Duration;

use super::claims::{ClaimedKnock, PendingKnock};
use super::member::{Finished, FleetMember};
use super::process::StoreProcess;
use crate::fleet::ipc::{OutcomeMessage, ToStore};
use crate::fleet::mark_file;
use crate::os::files::{self, FileError};
use crate::os::process::privileges;
use spa_knock_core::knock::Steady;
use spa_knock_fleet::rollback::StoreMark;

/// The user of the store process, if there is one of this name; else `nobody`.
const USER: &str = "spa-knock-store";
/// How often the mark is written, if it has changed.
const MARK_EVERY: Duration = Duration::from_secs(1);

impl FleetMember {
    pub(super) fn start(&mut self) {
        let (program, basis, mark) = (Arc::clone(&self.program), self.basis.clone(), self.mark);
        self.is_starting = true;
        self.described = None;
        // In the background: it resolves host names.
        self.worker.submit(move || {
            let Ok(program) = &*program else { return Finished::Started(Err("no program".to_owned())) };
            let identity = privileges::unprivileged(USER).map_err(|error| files::io_error_text(&error));
            Finished::Started(identity.and_then(|identity| {
                StoreProcess::start(program, &basis.settings, identity, basis.window, mark.as_ref())
            }))
        });
    }

    pub(super) fn note_started(&mut self, started: Result<StoreProcess, String>, now: Steady) {
        self.is_starting = false;
        match started {
            Ok(process) => {
                let name = &self.basis.settings.name;
                log::info!("fleet {name}: the store process runs, landlock ABI {}", process.landlock());
                (self.process, self.problem) = (Some(process), None);
            }
            Err(reason) => {
                self.restart.postpone();
                if !self.restart.is_longest() || self.problem.as_ref() != Some(&reason) {
                    let delay = self.restart.delay().as_millis();
                    log::error!("fleet: store process: {reason}; starting it again in {delay} ms");
                }
                self.problem = Some(reason);
            }
        }
        self.mark_due = now.plus(MARK_EVERY);
    }

    pub(super) fn lose_process(&mut self, how: &str) {
        (self.process, self.is_synced) = (None, false);
        self.restart.postpone();
        let problem = self.problem.get_or_insert_with(|| format!("the store process {how}"));
        let delay = self.restart.delay().as_millis();
        log::error!("fleet: {problem}; starting it again in {delay} ms");
        while let Some(knock) = self.waiting.take_any() {
            self.give_up(knock, "the store process has ended");
        }
    }

    pub(super) fn give_up(&mut self, knock: PendingKnock, why: &str) {
        let outcome = OutcomeMessage::Unknown(why.to_owned());
        self.stats.count(outcome.name());
        self.claimed.push(ClaimedKnock { knock, outcome, micros: None });
    }

    /// Sends what the member's record contains, if it has changed.
    pub(super) fn describe(&mut self) {
        let Some(process) = &self.process else { return };
        let is_same =
            |(revision, digest): &(u64, String)| *revision == self.revision && *digest == self.digest;
        if self.described.as_ref().is_some_and(is_same) {
            return;
        }
        let message = ToStore::Describe {
            address: self.address.clone(),
            policy_revision: self.revision,
            policy_digest: self.digest.clone(),
        };
        if process.try_send(&message) {
            self.described = Some((self.revision, self.digest.clone()));
        }
    }

    pub(super) fn write_mark(&mut self, now: Steady) {
        if self.is_writing || now < self.mark_due {
            return;
        }
        let Some((report, _)) = &self.report else { return };
        let Some(mark) = report.mark.as_ref().filter(|_| report.went_back.is_none()) else { return };
        let Ok(mark) = mark.parse::<StoreMark>() else { return };
        self.mark_due = now.plus(MARK_EVERY);
        if self.mark.as_ref() == Some(&mark) {
            return;
        }
        self.is_writing = true;
        let folder = self.basis.state_dir.clone();
        self.worker.submit(move || Finished::Written(mark_file::write(&folder, &mark).map(|()| mark)));
    }

    pub(super) fn note_written(&mut self, written: Result<StoreMark, FileError>) {
        self.is_writing = false;
        match written {
            Ok(mark) => self.mark = Some(mark),
            Err(error) => log::error!(
                "fleet: {error}; after a restart, a store that was restored is perhaps not recognized"
            ),
        }
    }
}
