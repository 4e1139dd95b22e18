//! An order that is being carried out: how far it has come, what it waits for, and what has come of it.

use crate::firewall::{RequestId, RequestResult as Closed};
use crate::state::ScheduledUndo;
use spa_knock_core::auth::{AuditRecord, Authorized, KnockContext, Outcome, Rejection};

/// An order that is being carried out.
pub(crate) struct Execution {
    pub(super) authorized: Authorized,
    pub(super) attempt: AttemptNumber,
    /// The place of the effect that comes next, or that is waited for.
    pub(super) next: usize,
    pub(super) outcome: Outcome,
    pub(super) closed: Vec<AuditRecord>,
    /// How many commands have been started or wait.
    pub(super) commands: usize,
}

/// Which attempt this is to carry an order out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptNumber {
    First,
    /// After it has found no room.
    Second,
}

/// How far an order has come.
pub(crate) enum ExecutionStep {
    /// It is over.
    Over(OrderResult),
    /// `ended` will report what it waits for, and `go_on` goes on.
    Waits(WaitsFor),
}

/// What an order waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WaitsFor {
    /// The firewall.
    Firewall(RequestId),
    /// The disk, which must know what is to be undone.
    Disk(u64),
}

impl WaitsFor {
    /// Whether an order waits for it only for a while. The firewall always reports an end.
    pub(crate) const fn has_an_end(self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// What has come of it.
pub(crate) enum StepResult {
    /// What the firewall has done.
    Firewall(Closed),
    /// What is planned to be undone, and whether that is on the disk.
    Disk(Vec<ScheduledUndo>, Result<(), String>),
}

/// What has come of an order.
pub(crate) struct OrderResult {
    /// How it went.
    pub(crate) outcome: Outcome,
    /// What there is to say of that.
    pub(crate) remark: String,
    /// Whether nothing of it is done, only because the firewall is full.
    pub(crate) no_room: bool,
    /// Why it is refused after all: what its client holds already.
    pub(crate) refused: Option<Rejection>,
    /// The records of what it has closed.
    pub(crate) closed: Vec<AuditRecord>,
    /// How many commands run or wait.
    pub(crate) commands: usize,
}

/// A command that is over.
pub(crate) struct FinishedCommand {
    /// What is to be recorded of it.
    pub(crate) record: AuditRecord,
    /// Whose order it was; none of an undo task's.
    pub(crate) context: Option<KnockContext>,
}

impl Execution {
    /// An order of which nothing is done yet.
    pub(crate) const fn of(authorized: Authorized, attempt: AttemptNumber) -> Self {
        Self { authorized, attempt, next: 0, outcome: Outcome::Started, closed: Vec::new(), commands: 0 }
    }

    /// Who ordered it.
    pub(crate) const fn context(&self) -> &KnockContext {
        self.authorized.context()
    }

    /// Which attempt this is.
    pub(crate) const fn attempt(&self) -> AttemptNumber {
        self.attempt
    }

    /// The order, when it is over.
    pub(crate) fn into_authorized(self) -> Authorized {
        self.authorized
    }

    /// The end of one that has waited too long.
    pub(crate) fn end_late(&mut self, remark: &str) -> OrderResult {
        self.end(Some(remark.to_owned()), false)
    }

    /// The end of it. What is done already ends in its time.
    pub(super) fn end(&mut self, failure: Option<String>, no_room: bool) -> OrderResult {
        let outcome = if failure.is_some() { Outcome::Failed } else { self.outcome };
        OrderResult {
            outcome,
            remark: failure.unwrap_or_default(),
            no_room,
            refused: None,
            closed: std::mem::take(&mut self.closed),
            commands: if outcome == Outcome::Failed { 0 } else { self.commands },
        }
    }
}
