//! Undo tasks of orders. They are on the disk before the commands that they undo run. Those of an earlier daemon run only
//! if an action of the config still makes them.

use std::path::Path;
use std::time::Duration;

use super::jobs::JobKind;
use super::{Executor, FilesDone};
use crate::config::setup::Setup;
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::process::command_queue::{CommandQueue, Job};
use crate::state::{Due, FileWork, Leftover, ScheduledUndo, UndoTask};
use spa_knock_core::auth::{
    AuditCause, AuditEvent, AuditRecord, Explanation, KnockContext, Undo as ToUndo, undo_is_of,
};

impl Executor {
    /// Begins to put on record what is to be undone later; gives that a name.
    pub(super) fn plan(
        &mut self,
        undo: &ToUndo,
        timeout: Duration,
        context: &KnockContext,
    ) -> Result<u64, String> {
        let (mut planned, mut works) = (Vec::new(), Vec::new());
        for command in &undo.commands {
            let record = command.context(context).record(AuditEvent::Expired, None);
            let argument = undo.argument.clone();
            let task = UndoTask { argv: command.argv().to_vec(), timeout, argument, record };
            match self.undo_queue.prepare(task, undo.after) {
                Ok(plan) => plan.into_iter().for_each(|(plan, work)| {
                    planned.push(plan);
                    works.push(work);
                }),
                Err(error) => {
                    self.forget_all(&planned);
                    return Err(error.to_string());
                }
            }
        }
        let id = self.next_plan;
        self.next_plan = id.wrapping_add(1);
        self.files.ask(move || {
            let written = works.into_iter().try_for_each(FileWork::run);
            FilesDone::Planned(id, planned, written.map_err(|error| format!("undo: {error}")))
        });
        Ok(id)
    }

    pub(super) fn forget_all(&mut self, planned: &[ScheduledUndo]) {
        planned.iter().for_each(|planned| self.undo_queue.forget(planned));
    }

    /// Runs what undoes something, when the disk knows that it begins.
    pub(super) fn undo(&mut self, number: u64, outcome: Result<(), FileError>) {
        self.beginning = false;
        let Some((begun, task)) = self.undo_queue.begun(number, outcome) else { return };
        let UndoTask { argv, timeout, record, .. } = task;
        let owner = record.client.to_string();
        let job = Job { argv, timeout, owner, label: JobKind::Undoing(begun, record) };
        self.unstarted.extend(self.commands.start_undo(job, clock::steady()).err());
    }

    /// Lets what an earlier daemon left be undone as far as this config makes it; returns what is to be recorded of the
    /// rest.
    pub(crate) fn confirm_undo_tasks(&mut self, setup: &Setup) -> Vec<AuditRecord> {
        let actions = &setup.config.actions;
        let refused =
            self.undo_queue.confirm(|undo| undo_is_of(actions, &undo.record, &undo.argument, &undo.argv));
        refused.into_iter().map(|(file, task)| not_of_the_config(&file, task)).collect()
    }
}

/// One that is hastened waits for commands of its action: undone before they end, their effect would stay. They end by
/// their timeout.
pub(super) fn may_undo(commands: &CommandQueue<JobKind>, task: &UndoTask, why: Due) -> bool {
    let AuditRecord { client, action, .. } = &task.record;
    let is_before = |label: &JobKind| matches!(label, JobKind::Order(context) if context.client() == client && context.action() == action.as_ref());
    commands.may_undo(client.as_str()) && (why == Due::InTime || !commands.has(is_before))
}

/// What an earlier daemon left to be undone and the config does not make: nothing is run that only a file names.
fn not_of_the_config(file: &Path, task: UndoTask) -> AuditRecord {
    log::error!(
        "undo: {}: not run: no action of this config makes it for {}: {:?}\nhint: run it by hand if it is yours, then remove the file; or restore the action's `undo`",
        file.display(),
        task.record.client,
        task.argv
    );
    let reason = "undo: not run: no action of this config makes this command";
    let reason = Some(Explanation::new(AuditCause::UndoRefused, reason));
    AuditRecord { event: AuditEvent::Failed, reason, ..task.record }
}

/// Tells what an earlier daemon left half-done; returns what is to be recorded.
pub(crate) fn report_interrupted(left: Vec<Leftover>) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for left in left {
        match left {
            Leftover::Begun(UndoTask { argv, record, .. }) => {
                log::error!(
                    "undo: the daemon ended as this began, and it may not have run: {argv:?}\nhint: look whether it has, else run it by hand"
                );
                let reason = "undo: the daemon ended as it began; it may not have run";
                let reason = Some(Explanation::new(AuditCause::UndoUnknown, reason));
                records.push(AuditRecord { event: AuditEvent::Failed, reason, ..record });
            }
            Leftover::Damaged(path) => log::error!(
                "undo: {}: not as it was written; what it should have undone may still stand\nhint: undo it by hand, then remove the file",
                path.display()
            ),
        }
    }
    records
}
