//! The verdicts on a knock: each step hands over a value that the next step requires.

use std::net::SocketAddr;

use super::authorized::{Authorized, KnockContext};
use super::fresh::Fresh;
use super::replay::{Acceptance, KnockId};
use crate::auth::record::AuditRecord;
use crate::auth::rejection::Rejection;
use crate::crypto::Fingerprint;
use crate::knock::Reply;

/// The result of steps 4 to 7 for an authentic knock.
#[must_use]
pub enum Judgment {
    /// Record it, then call [`super::Keeper::decide`]. The knock must have no effect unless it is recorded.
    Record(Accepted),
    /// Send these bytes again: the client has resent its knock.
    Resend(Vec<u8>),
    /// Refuse it.
    Refuse(Refusal),
    /// Do nothing but count: a signed knock over the limit of its client, with nothing recorded.
    Throttle,
    /// Do nothing.
    Ignore,
}

/// The result of step 8 for a recorded knock.
#[must_use]
pub enum Decision {
    /// Act, then pass the outcome to [`super::Keeper::conclude`].
    Execute(Authorized),
    /// The same, once what the knock consumes is on disk.
    Commit(Uncommitted),
    /// Refuse it.
    Refuse(Refusal),
}

/// A refused knock.
#[derive(Debug)]
pub struct Refusal {
    /// The reason, with details.
    pub rejection: Rejection,
    /// For the audit log, unless it is already logged.
    pub record: Option<AuditRecord>,
    /// For the client, unless there is no reply.
    pub reply: Option<PendingReply>,
}

/// A reply that is not encrypted yet.
#[derive(Debug)]
pub struct PendingReply {
    pub(super) fingerprint: Fingerprint,
    pub(super) id: KnockId,
    pub(super) source: SocketAddr,
    pub(super) reply: Reply,
}

/// The outcome of acting on an authorized knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A port is open.
    Granted,
    /// A command was started, or what had to be closed is closed.
    Started,
    /// The action failed.
    Failed,
}

impl From<Result<Accepted, Refusal>> for Judgment {
    fn from(accepted: Result<Accepted, Refusal>) -> Self {
        accepted.map_or_else(Self::Refuse, Self::Record)
    }
}

/// A knock that is consumed from now on, whatever follows. It has had no effect yet. Created only by the keeper.
#[must_use]
pub struct Accepted {
    pub(super) fresh: Fresh,
    pub(super) context: KnockContext,
    pub(super) acceptance: Acceptance,
}

/// An authorized knock that consumes something, which must be recorded before it is executed. Created only by the
/// keeper.
#[must_use]
pub struct Uncommitted {
    pub(super) authorized: Authorized,
    pub(super) code: Option<Acceptance>,
    pub(super) counted: bool,
}

impl Accepted {
    /// The context of the knock.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        &self.context
    }

    /// The acceptance that must be recorded.
    #[must_use]
    pub const fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }
}

impl Uncommitted {
    /// The context of the knock.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        self.authorized.context()
    }

    /// The one-time password that is consumed, for the journal.
    #[must_use]
    pub const fn code(&self) -> Option<&Acceptance> {
        self.code.as_ref()
    }

    /// Whether the knock has changed [`super::Keeper::uses`].
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.counted
    }

    /// Confirms that everything is on disk.
    pub fn committed(self) -> Authorized {
        self.authorized
    }
}
