//! An order that is being carried out: how far it has come, what it waits for, and what has come of it.

use crate::auth::{Order, Outcome, Record, Rejection, Ticket};
use crate::firewall::{Outcome as Closed, RequestId};
use crate::state::Planned;

/// An order that is being carried out.
pub(crate) struct RunningOrder {
    pub(super) order: Order,
    pub(super) attempt: Attempt,
    /// The place of the effect that comes next, or that is waited for.
    pub(super) next: usize,
    pub(super) outcome: Outcome,
    pub(super) closed: Vec<Record>,
    /// How many commands have been started or wait.
    pub(super) commands: usize,
}

/// Which attempt this is to carry an order out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    First,
    /// After it has found no room.
    Second,
}

/// How far an order has come.
pub(crate) enum Carried {
    /// It is over.
    Over(Done),
    /// `ended` will report what it waits for, and `go_on` goes on.
    Waits(Wait),
}

/// What an order waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wait {
    /// The firewall.
    Firewall(RequestId),
    /// The disk, which must know what is to be undone.
    Disk(u64),
}

impl Wait {
    /// Whether an order waits for it only for a while. The firewall always reports an end.
    pub(crate) const fn has_an_end(self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// What has come of it.
pub(crate) enum Met {
    /// What the firewall has done.
    Firewall(Closed),
    /// What is planned to be undone, and whether that is on the disk.
    Disk(Vec<Planned>, Result<(), String>),
}

/// What has come of an order.
pub(crate) struct Done {
    /// How it went.
    pub(crate) outcome: Outcome,
    /// What there is to say of that.
    pub(crate) remark: String,
    /// Whether nothing of it is done, only because the firewall is full.
    pub(crate) no_room: bool,
    /// Why it is refused after all: what its client holds already.
    pub(crate) refused: Option<Rejection>,
    /// The records of what it has closed.
    pub(crate) closed: Vec<Record>,
    /// How many commands run or wait.
    pub(crate) commands: usize,
}

/// A command that is over.
pub(crate) struct Over {
    /// What is to be recorded of it.
    pub(crate) record: Record,
    /// Whose order it was; none of an undo task's.
    pub(crate) ticket: Option<Ticket>,
}

impl RunningOrder {
    /// An order of which nothing is done yet.
    pub(crate) const fn of(order: Order, attempt: Attempt) -> Self {
        Self { order, attempt, next: 0, outcome: Outcome::Started, closed: Vec::new(), commands: 0 }
    }

    /// Who ordered it.
    pub(crate) const fn ticket(&self) -> &Ticket {
        self.order.ticket()
    }

    /// Which attempt this is.
    pub(crate) const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The order, when it is over.
    pub(crate) fn into_order(self) -> Order {
        self.order
    }

    /// The end of one that has waited too long.
    pub(crate) fn end_late(&mut self, remark: &str) -> Done {
        self.end(Some(remark.to_owned()), false)
    }

    /// The end of it. What is done already ends in its time.
    pub(super) fn end(&mut self, failure: Option<String>, no_room: bool) -> Done {
        let outcome = if failure.is_some() { Outcome::Failed } else { self.outcome };
        Done {
            outcome,
            remark: failure.unwrap_or_default(),
            no_room,
            refused: None,
            closed: std::mem::take(&mut self.closed),
            commands: if outcome == Outcome::Failed { 0 } else { self.commands },
        }
    }
}
