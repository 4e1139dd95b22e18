//! What becomes of a knock next: each step that must be done before the next one hands over what that one takes.

use std::net::SocketAddr;

use super::authorized::{Authorized, KnockContext};
use super::fresh::Fresh;
use super::replay::{Acceptance, KnockId};
use crate::auth::record::AuditRecord;
use crate::auth::rejection::Rejection;
use crate::crypto::Fingerprint;
use crate::knock::Reply;

/// The result of steps 4 to 7: what to do about an authentic knock.
#[must_use]
pub enum Judgment {
    /// Put it on record, then ask [`super::Keeper::decide`]. Without a record, nothing may come of it.
    Record(Accepted),
    /// Send these bytes again: the client resent its knock.
    Resend(Vec<u8>),
    /// Refuse it.
    Refuse(Refusal),
    /// Do nothing.
    Ignore,
}

/// The result of step 8: what to do about a knock that is on record.
#[must_use]
pub enum Decision {
    /// Act, then tell [`super::Keeper::conclude`] how it went.
    Execute(Authorized),
    /// The same, once what it uses up is on disk.
    Commit(Uncommitted),
    /// Refuse it.
    Refuse(Refusal),
}

/// A refused knock.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub rejection: Rejection,
    /// For the audit log, unless this knock stands in it already.
    pub record: Option<AuditRecord>,
    /// For the client, unless silence is due.
    pub reply: Option<PendingReply>,
}

/// A reply that is not sealed yet.
#[derive(Debug)]
pub struct PendingReply {
    pub(super) fingerprint: Fingerprint,
    pub(super) id: KnockId,
    pub(super) source: SocketAddr,
    pub(super) reply: Reply,
}

/// How acting on an authorized knock went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The port is open.
    Granted,
    /// The command was started, or what was to be closed is closed.
    Started,
    /// It did not work.
    Failed,
}

impl From<Result<Accepted, Refusal>> for Judgment {
    fn from(accepted: Result<Accepted, Refusal>) -> Self {
        accepted.map_or_else(Self::Refuse, Self::Record)
    }
}

/// A knock that is used up from now on, whatever comes; nothing has happened yet. Made by the keeper alone.
#[must_use]
pub struct Accepted {
    pub(super) fresh: Fresh,
    pub(super) context: KnockContext,
    pub(super) acceptance: Acceptance,
}

/// An order that uses something up, which must be on record before anything happens. Made by the keeper alone.
#[must_use]
pub struct Uncommitted {
    pub(super) authorized: Authorized,
    pub(super) code: Option<Acceptance>,
    pub(super) counted: bool,
}

impl Accepted {
    /// Who knocked.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        &self.context
    }

    /// What must be on record.
    #[must_use]
    pub const fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }
}

impl Uncommitted {
    /// Who knocked.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        self.authorized.context()
    }

    /// The one-time password that is used up, for the journal.
    #[must_use]
    pub const fn code(&self) -> Option<&Acceptance> {
        self.code.as_ref()
    }

    /// Whether [`super::Keeper::uses`] has changed.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.counted
    }

    /// All of it is on record.
    pub fn committed(self) -> Authorized {
        self.authorized
    }
}
