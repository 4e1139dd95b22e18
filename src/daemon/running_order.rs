//! The execution of an authorized knock: its progress, what it waits for, and its result.

use crate::firewall::{RequestId, RequestResult};
use crate::state::ScheduledUndo;
use spa_knock_core::auth::{AuditRecord, Authorized, KnockContext, Outcome, Rejection};

/// An authorized knock whose effects are being carried out.
pub(crate) struct Execution {
    pub(super) authorized: Authorized,
    pub(super) attempt: AttemptNumber,
    /// Index of the next effect, or of the effect that is waited for.
    pub(super) next: usize,
    pub(super) outcome: Outcome,
    pub(super) closed: Vec<AuditRecord>,
    /// The number of commands that have been started or queued.
    pub(super) commands: usize,
}

/// The first or second attempt to carry out a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptNumber {
    First,
    /// The retry after the grant set was full.
    Second,
}

/// The state of an execution after a part of it has been carried out.
pub(crate) enum ExecutionStep {
    /// It has ended.
    Finished(ExecutionResult),
    /// It waits: `finished` will report the operation's result, with which `resume` continues.
    Waiting(WaitsFor),
}

/// The operation that an execution waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WaitsFor {
    /// A firewall request.
    Firewall(RequestId),
    /// The write of its undo tasks to disk.
    Disk(u64),
}

impl WaitsFor {
    /// Whether the wait can time out. The firewall always reports a result.
    pub(crate) const fn has_timeout(self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// The result of an operation that was waited for.
pub(crate) enum StepResult {
    /// The firewall's result.
    Firewall(RequestResult),
    /// The scheduled undo tasks, and whether they are on disk.
    Disk(Vec<ScheduledUndo>, Result<(), String>),
}

/// The result of an execution.
pub(crate) struct ExecutionResult {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Why it failed; empty on success.
    pub(crate) remark: String,
    /// Set if nothing was applied because the grant set is full.
    pub(crate) no_room: bool,
    /// Set if it is refused after all because its client already holds too many grants.
    pub(crate) refused: Option<Rejection>,
    /// Audit records of the grants that it closed.
    pub(crate) closed: Vec<AuditRecord>,
    /// The number of commands that run or are queued.
    pub(crate) commands: usize,
}

/// A command that has ended.
pub(crate) struct FinishedCommand {
    /// Its audit record.
    pub(crate) record: AuditRecord,
    /// The knock that started it; none for an undo task.
    pub(crate) context: Option<KnockContext>,
}

impl Execution {
    /// An execution that has not started.
    pub(crate) const fn of(authorized: Authorized, attempt: AttemptNumber) -> Self {
        Self { authorized, attempt, next: 0, outcome: Outcome::Started, closed: Vec::new(), commands: 0 }
    }

    /// The knock's client, action and addresses.
    pub(crate) const fn context(&self) -> &KnockContext {
        self.authorized.context()
    }

    /// Whether this is the first or the second attempt.
    pub(crate) const fn attempt(&self) -> AttemptNumber {
        self.attempt
    }

    /// Returns the authorized knock, after the execution has ended.
    pub(crate) fn into_authorized(self) -> Authorized {
        self.authorized
    }

    /// Ends an execution that has waited too long.
    pub(crate) fn expire(&mut self, remark: &str) -> ExecutionResult {
        self.end(Some(remark.to_owned()), false)
    }

    /// Ends the execution. Effects that are already applied end at their scheduled time.
    pub(super) fn end(&mut self, failure: Option<String>, no_room: bool) -> ExecutionResult {
        let outcome = if failure.is_some() { Outcome::Failed } else { self.outcome };
        ExecutionResult {
            outcome,
            remark: failure.unwrap_or_default(),
            no_room,
            refused: None,
            closed: std::mem::take(&mut self.closed),
            commands: if outcome == Outcome::Failed { 0 } else { self.commands },
        }
    }
}
