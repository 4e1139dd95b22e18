//! What a command is run for, and what is recorded when it has ended.

use super::Executor;
use crate::daemon::running_order::FinishedCommand;
use crate::os::process::command_queue::{Exit, FinishedJob};
use crate::state::StartedUndo;
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation, KnockContext};

/// What a command is run for.
pub(super) enum JobKind {
    Order(KnockContext),
    Undoing(StartedUndo, AuditRecord),
}

impl JobKind {
    /// What is to be recorded of a knock's command that has failed for this reason.
    pub(super) fn end(self, reason: &Explanation) -> Option<FinishedCommand> {
        match self {
            Self::Order(context) => {
                let record = context.record(AuditEvent::Failed, Some(reason.clone()));
                Some(FinishedCommand { record, context: Some(context) })
            }
            Self::Undoing(..) => None,
        }
    }
}

impl Executor {
    /// What is to be recorded of a command that is over.
    pub(super) fn conclude(&self, done: FinishedJob<JobKind>) -> FinishedCommand {
        let bad = match done.ended {
            Exit::Success => None,
            Exit::Failure(how) => Some(Explanation::new(AuditCause::CommandFailed, how)),
            Exit::TimedOut => Some(Explanation::new(AuditCause::Timeout, "ended at its timeout")),
        };
        let (record, context) = match done.label {
            JobKind::Order(context) => {
                let event = if bad.is_none() { AuditEvent::Done } else { AuditEvent::Failed };
                (context.record(event, bad), Some(context))
            }
            JobKind::Undoing(begun, record) => {
                self.undo_queue.end(begun);
                let event = if bad.is_none() { record.event } else { AuditEvent::Failed };
                let undo = |bad: Explanation| {
                    Explanation::new(AuditCause::UndoFailed, format!("undo: {}", bad.detail))
                };
                (AuditRecord { event, reason: bad.map(undo), ..record }, None)
            }
        };
        if !done.said.is_empty() {
            let action = record.action.as_ref().map_or("", |action| action.as_str());
            log::info!("{}: {action} said: {}", record.client, done.said);
        }
        FinishedCommand { record, context }
    }
}
