//! Why a command runs, and the audit record of its end.

use super::Executor;
use crate::daemon::running_order::FinishedCommand;
use crate::os::process::command_queue::{Exit, FinishedJob};
use crate::state::StartedUndo;
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation, KnockContext};

/// Why a command runs: for a knock, or to undo an earlier one.
pub(super) enum JobKind {
    Knock(KnockContext),
    Undo(StartedUndo, AuditRecord),
}

impl JobKind {
    /// The record of a knock's command that failed for this reason. None for an undo command.
    pub(super) fn end(self, reason: &Explanation) -> Option<FinishedCommand> {
        match self {
            Self::Knock(context) => {
                let record = context.record(AuditEvent::Failed, Some(reason.clone()));
                Some(FinishedCommand { record, context: Some(context) })
            }
            Self::Undo(..) => None,
        }
    }
}

impl Executor {
    /// The record of a finished command. Also logs the command's output.
    pub(super) fn conclude(&self, done: FinishedJob<JobKind>) -> FinishedCommand {
        let bad = match done.ended {
            Exit::Success => None,
            Exit::Failure(how) => Some(Explanation::new(AuditCause::CommandFailed, how)),
            Exit::TimedOut => Some(Explanation::new(AuditCause::Timeout, "timed out")),
        };
        let (record, context) = match done.label {
            JobKind::Knock(context) => {
                let event = if bad.is_none() { AuditEvent::Done } else { AuditEvent::Failed };
                (context.record(event, bad), Some(context))
            }
            JobKind::Undo(started, record) => {
                self.undo_queue.end(started);
                let event = if bad.is_none() { record.event } else { AuditEvent::Failed };
                let undo = |bad: Explanation| {
                    Explanation::new(AuditCause::UndoFailed, format!("undo: {}", bad.detail))
                };
                (AuditRecord { event, reason: bad.map(undo), ..record }, None)
            }
        };
        if !done.output.is_empty() {
            let action = record.action.as_ref().map_or("", |action| action.as_str());
            log::info!("{}: {action} printed: {}", record.client, done.output);
        }
        FinishedCommand { record, context }
    }
}
