//! Undo tasks. Each is on disk before the command that it undoes runs. Tasks of an earlier daemon run only if an action
//! of the current config still generates them.

use std::path::Path;
use std::time::Duration;

use super::jobs::JobKind;
use super::{DiskOutcome, Executor};
use crate::config::setup::Setup;
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::process::command_queue::{CommandQueue, Job};
use crate::state::{Due, FileWork, Leftover, ScheduledUndo, UndoTask};
use spa_knock_core::auth::{
    AuditCause, AuditEvent, AuditRecord, Explanation, KnockContext, Undo as UndoRule, undo_is_of,
};

impl Executor {
    /// Starts writing undo tasks to disk. Returns the number under which the result will be reported.
    pub(super) fn plan(
        &mut self,
        undo: &UndoRule,
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
        self.files.submit(move || {
            let written = works.into_iter().try_for_each(FileWork::run);
            DiskOutcome::Written(id, planned, written.map_err(|error| format!("undo: {error}")))
        });
        Ok(id)
    }

    pub(super) fn forget_all(&mut self, planned: &[ScheduledUndo]) {
        planned.iter().for_each(|planned| self.undo_queue.forget(planned));
    }

    /// Runs an undo task that has been marked as started on disk.
    pub(super) fn undo(&mut self, number: u64, outcome: Result<(), FileError>) {
        self.undo_starting = false;
        let Some((started, task)) = self.undo_queue.finish_start(number, outcome) else { return };
        let UndoTask { argv, timeout, record, .. } = task;
        let owner = record.client.to_string();
        let job = Job { argv, timeout, owner, label: JobKind::Undo(started, record) };
        self.unstarted.extend(self.commands.start_undo(job, clock::steady()).err());
    }

    /// Releases those undo tasks of an earlier daemon that this config still generates. Returns audit records of the
    /// refused ones.
    pub(crate) fn confirm_undo_tasks(&mut self, setup: &Setup) -> Vec<AuditRecord> {
        let actions = &setup.config.actions;
        let refused =
            self.undo_queue.confirm(|undo| undo_is_of(actions, &undo.record, &undo.argument, &undo.argv));
        refused.into_iter().map(|(file, task)| refuse_task(&file, task)).collect()
    }
}

/// Whether this undo task may start now. A task that runs early waits until the commands of its action have ended:
/// otherwise their effect would remain. They end at their timeout at the latest.
pub(super) fn may_undo(commands: &CommandQueue<JobKind>, task: &UndoTask, why: Due) -> bool {
    let AuditRecord { client, action, .. } = &task.record;
    let is_before = |label: &JobKind| matches!(label, JobKind::Knock(context) if context.client() == client && context.action() == action.as_ref());
    commands.may_undo(client.as_str()) && (why == Due::InTime || !commands.has(is_before))
}

/// Refuses an undo task of an earlier daemon that this config does not generate: no command runs only because a file
/// names it.
fn refuse_task(file: &Path, task: UndoTask) -> AuditRecord {
    log::error!(
        "undo task {}: not run: no action in this config generates it for {}: {:?}\nhint: if the command is yours, run it by hand and remove the file, or restore the action's `undo`",
        file.display(),
        task.record.client,
        task.argv
    );
    let reason = "undo: not run: no action in this config generates this command";
    let reason = Some(Explanation::new(AuditCause::UndoRefused, reason));
    AuditRecord { event: AuditEvent::Failed, reason, ..task.record }
}

/// Logs undo tasks that an earlier daemon left unfinished or damaged. Returns their audit records.
pub(crate) fn report_interrupted(left: Vec<Leftover>) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for left in left {
        match left {
            Leftover::Begun(task) => {
                let UndoTask { argv, record, .. } = *task;
                log::error!(
                    "undo: the daemon exited while it started this command, which may not have run: {argv:?}\nhint: check whether it has run; if not, run it by hand"
                );
                let reason = "undo: the daemon exited while it started this command, which may not have run";
                let reason = Some(Explanation::new(AuditCause::UndoUnknown, reason));
                records.push(AuditRecord { event: AuditEvent::Failed, reason, ..record });
            }
            Leftover::Damaged(path) => log::error!(
                "undo task {}: damaged; its action may not have been undone\nhint: undo the action by hand, then remove the file",
                path.display()
            ),
        }
    }
    records
}
