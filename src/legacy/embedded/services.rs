//! Both legacy protocols of `spa-knockd run` as one part of its event loop.

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::LegacyFiles;
use super::doors::{LegacyDoors, NextLegacyDoors};
use super::fwknop::{FwknopStanzas, NextFwknopStanzas};
use crate::config::ServerConfig;
use crate::config::setup::Setup;
use crate::console::AdminError;
use crate::control::status::{FwknopState, LegacyState};
use crate::gate::Gate;
use crate::legacy::grants::{LegacyGrants, LegacyOutcome};
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::state::StateError;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::knock::{Now, Steady};

/// The doors and the stanzas, as far as there are any.
pub(crate) struct LegacyServices {
    doors: LegacyDoors,
    fwknop: FwknopStanzas,
    grants: LegacyGrants,
}

/// The doors and the stanzas of a new config.
pub(crate) struct NextLegacyServices(NextLegacyDoors, NextFwknopStanzas);

impl LegacyServices {
    /// Starts the watchers that are needed, and loads the commands that an earlier daemon has left.
    ///
    /// # Errors
    /// If a watcher does not start or the commands cannot be read.
    pub(crate) fn start(
        [doors, fwknop]: &[Rc<Result<Program, FileError>>; 2],
        config: &ServerConfig,
        files: &LegacyFiles,
        start: Start,
    ) -> Result<Self, AdminError> {
        Ok(Self {
            doors: LegacyDoors::start(doors, config, files.knockd.as_ref(), start)?,
            fwknop: FwknopStanzas::start(fwknop, config, files.fwknop.as_ref(), start)?,
            grants: LegacyGrants::default(),
        })
    }

    /// Starts a watcher for what has changed.
    ///
    /// # Errors
    /// If one does not start. Nothing has changed in this case.
    pub(crate) fn prepare(
        &mut self,
        config: &ServerConfig,
        files: &LegacyFiles,
    ) -> Result<NextLegacyServices, AdminError> {
        let fwknop = self.fwknop.prepare(config, files.fwknop.as_ref(), Start::First)?;
        Ok(NextLegacyServices(self.doors.prepare(config, files.knockd.as_ref())?, fwknop))
    }

    /// Replaces the doors and the stanzas.
    pub(crate) fn activate(&mut self, NextLegacyServices(doors, fwknop): NextLegacyServices) {
        self.doors.activate(doors);
        self.fwknop.activate(fwknop);
    }

    /// Refuses every packet that another host can have accepted, also after a restart.
    ///
    /// # Errors
    /// If this is not on disk.
    pub(crate) fn refuse_until_now(&mut self, now: Now) -> Result<(), StateError> {
        self.fwknop.refuse_until_now(now)
    }

    /// Their numbers, for the log; empty if there are none.
    pub(crate) fn summary(&self) -> String {
        let counts = [("knockd doors", self.doors.count()), ("fwknop stanzas", self.fwknop.count())];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        counts.map(|(name, count)| format!(", {name}: {count}")).collect()
    }

    /// Handles the watchers' reports, does what is due, and makes grants unless the audit log cannot be written for this
    /// reason. Returns the audit records.
    pub(crate) fn run_due(
        &mut self,
        audit: &Result<(), String>,
        gate: &mut Gate,
        setup: &Setup,
    ) -> Vec<AuditRecord> {
        let mut outcomes = self.doors.run_due();
        outcomes.extend(self.fwknop.run_due());
        self.grants.carry_out(outcomes, audit, gate, setup)
    }

    /// Waits shortly for commands. Those that are due later are left to the next daemon. Returns the audit records.
    pub(crate) fn stop(&mut self) -> Vec<AuditRecord> {
        let outcomes = self.doors.stop().into_iter().chain(self.fwknop.stop());
        outcomes
            .filter_map(|outcome| match outcome {
                LegacyOutcome::Record(record) => Some(record),
                // A stopping daemon opens nothing.
                LegacyOutcome::Grant(_) => None,
            })
            .collect()
    }

    /// Their part of the daemon's status.
    pub(crate) fn state(&mut self) -> (Option<LegacyState>, Option<FwknopState>) {
        (self.doors.state(), self.fwknop.state())
    }
}

impl Polled for LegacyServices {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.doors.fds(out);
        self.fwknop.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        [self.doors.deadline(), self.fwknop.deadline()].into_iter().flatten().min()
    }
}
