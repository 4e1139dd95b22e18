//! What the audit log keeps of a knock, and of the end of what it did.

use std::net::{IpAddr, SocketAddr};

use super::keeper::replay::KnockId;
use super::policy::KeyAge;
use super::rejection::{Reason, Rejection};
use crate::knock::{ActionName, ClientName};

/// How a knock ended, or what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditEvent {
    /// A port is open.
    Granted,
    /// A command ran, or something was closed.
    Done,
    /// A check said no.
    Refused,
    /// Allowed, but it did not work; nor did what should have undone something.
    Failed,
    /// Its time was over, or an action ended it before, and a command has undone it.
    Expired,
    /// A grant was ended before its time: by its client, by the admin, or as its client was removed.
    Revoked,
    /// A captured knock came again.
    Replayed,
    /// The knock's time was not ours.
    Stale,
}

impl AuditEvent {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
        }
    }
}

/// How a knock came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// As one datagram.
    Udp,
    /// As a port sequence that a key signed.
    Ports,
    /// As a plain sequence.
    Knockd,
}

impl Via {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Ports => "ports",
            Self::Knockd => "knockd",
        }
    }
}

/// Why a record is not of a success, in one word for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditCause {
    /// A check of the knock failed.
    Rejected(Reason),
    /// The client sends more than its limit allows: its knocks are dropped unread.
    Throttled,
    /// The audit log cannot be written, and no knock may act without a record.
    AuditUnavailable,
    /// The knock could not be recorded in the state folder.
    StateUnavailable,
    /// The firewall did not change, or a command did not start.
    ActionFailed,
    /// A command ended with an error.
    CommandFailed,
    /// A command ran into its timeout.
    Timeout,
    /// The daemon stopped before a command had ended.
    DaemonStopped,
    /// The client was removed before its command had its turn.
    ClientRemoved,
    /// A command that undoes another ended with an error.
    UndoFailed,
    /// A command that should undo something is not of the config, and is not run.
    UndoRefused,
    /// An earlier daemon ended while this was undone; it is unknown whether it was.
    UndoUnknown,
}

impl AuditCause {
    /// The word for it in the log; it never changes its meaning.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected(reason) => reason.as_str(),
            Self::Throttled => "throttled",
            Self::AuditUnavailable => "audit-unavailable",
            Self::StateUnavailable => "state-unavailable",
            Self::ActionFailed => "action-failed",
            Self::CommandFailed => "command-failed",
            Self::Timeout => "timeout",
            Self::DaemonStopped => "daemon-stopped",
            Self::ClientRemoved => "client-removed",
            Self::UndoFailed => "undo-failed",
            Self::UndoRefused => "undo-refused",
            Self::UndoUnknown => "undo-unknown",
        }
    }
}

/// Why a record is not of a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// For machines.
    pub cause: AuditCause,
    /// The particulars, for people.
    pub detail: String,
}

impl Explanation {
    /// This cause, with these particulars.
    #[must_use]
    pub fn new(cause: AuditCause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

impl From<&Rejection> for Explanation {
    fn from(rejection: &Rejection) -> Self {
        Self::new(AuditCause::Rejected(rejection.reason()), rejection.to_string())
    }
}

/// One line of the audit log. Nothing in it is secret, and nothing a stranger wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// How it ended.
    pub event: AuditEvent,
    /// Who knocked.
    pub client: ClientName,
    /// With which of its keys.
    pub key: KeyAge,
    /// For what, once that is understood.
    pub action: Option<ActionName>,
    /// Who is, or would have been, let in.
    pub addresses: Vec<IpAddr>,
    /// Where the knock came from, if it is about one knock.
    pub source: Option<SocketAddr>,
    /// For how many seconds.
    pub seconds: u32,
    /// Why it did not succeed.
    pub reason: Option<Explanation>,
    /// The knock's id, if it is about one.
    pub knock: Option<KnockId>,
    /// How it came, if that is known.
    pub via: Option<Via>,
}

impl AuditRecord {
    /// Of knocks that were dropped because their client sent more than its limit allows. They were not read.
    #[must_use]
    pub fn throttled(client: ClientName) -> Self {
        Self {
            event: AuditEvent::Refused,
            client,
            key: KeyAge::Current,
            action: None,
            addresses: Vec::new(),
            source: None,
            seconds: 0,
            reason: Some(Explanation::new(AuditCause::Throttled, "over its limit of knocks: dropped unread")),
            knock: None,
            via: None,
        }
    }
}
