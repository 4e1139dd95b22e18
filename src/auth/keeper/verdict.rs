//! What becomes of a knock next: each step that must be done before the next one hands over what that one takes.

use super::authorization::{Authorized, KnockContext};
use super::fresh::Fresh;
use super::replay::Acceptance;
use super::replies::Refusal;

/// What is to be done about an authentic knock.
#[must_use]
pub enum Verdict {
    /// Put it on record, then ask [`super::Keeper::decide`]; without a record nothing may come of it.
    Record(Accepted),
    /// Act, then tell [`super::Keeper::conclude`] how it went.
    Execute(Authorized),
    /// The same, once what it costs is on record.
    Commit(Uncommitted),
    /// Send these bytes again: a client resent its knock.
    Resend(Vec<u8>),
    /// It ends here.
    Refuse(Refusal),
    /// Nothing at all.
    Ignore,
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
    pub(super) order: Authorized,
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
        self.order.context()
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
        self.order
    }
}
