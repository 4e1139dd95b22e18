//! The audit record of a knock, or of the end of what it did.

use std::net::{IpAddr, SocketAddr};

use super::keeper::replay::KnockId;
use super::policy::KeyAge;
use super::rejection::{Reason, Rejection};
use crate::knock::{ActionName, ClientName};

/// The result of a knock, or the end of what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditEvent {
    /// A port is open.
    Granted,
    /// A command ran, or something was closed.
    Done,
    /// A check refused the knock.
    Refused,
    /// The knock was allowed but its action failed, or an undo task failed.
    Failed,
    /// An undo task ran because the action's time had expired or an action ended it earlier.
    Expired,
    /// A grant ended before its scheduled time: by its client, by the administrator, or because its client was removed.
    Revoked,
    /// The knock was not new: accepted before, or older than the replay memory.
    Replayed,
    /// The knock's timestamp was outside the window.
    Stale,
}

impl AuditEvent {
    /// The event's name in the log.
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

/// How the server received a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// As a datagram.
    Udp,
    /// As a port sequence.
    Ports,
    /// As a knock sequence of knockd.
    Knockd,
    /// As a packet of fwknop.
    Fwknop,
}

impl Via {
    /// The name in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Ports => "ports",
            Self::Knockd => "knockd",
            Self::Fwknop => "fwknop",
        }
    }
}

/// Machine-readable code of why a record is not of a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditCause {
    /// A check of the knock refused it.
    Rejected(Reason),
    /// The client exceeded its knock limit; the excess knocks are dropped unread.
    Throttled,
    /// The audit log cannot be written, and no knock may act without a record.
    AuditUnavailable,
    /// The knock could not be recorded in the state folder.
    StateUnavailable,
    /// The store of the fleet has not decided whether the knock is new.
    StoreUnavailable,
    /// The firewall did not change, or a command did not start.
    ActionFailed,
    /// A command exited with an error.
    CommandFailed,
    /// A command exceeded its timeout.
    Timeout,
    /// The daemon stopped before a command had finished.
    DaemonStopped,
    /// The client was removed before its command was started.
    ClientRemoved,
    /// An undo command exited with an error.
    UndoFailed,
    /// An undo task does not match the config and was not run.
    UndoRefused,
    /// An earlier daemon stopped while the undo task ran; its result is unknown.
    UndoUnknown,
}

impl AuditCause {
    /// The code in the log. The meaning of a code never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected(reason) => reason.as_str(),
            Self::Throttled => "throttled",
            Self::AuditUnavailable => "audit-unavailable",
            Self::StateUnavailable => "state-unavailable",
            Self::StoreUnavailable => "store-unavailable",
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

/// What the store of a fleet has decided about a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimNote {
    /// Machine-readable result; its meaning never changes.
    pub result: &'static str,
    /// How long the decision took, in microseconds, if the store was asked.
    pub micros: Option<u64>,
}

/// Why a record is not of a success: code and details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Machine-readable code.
    pub cause: AuditCause,
    /// Human-readable details.
    pub detail: String,
}

impl Explanation {
    /// An explanation with this cause and these details.
    #[must_use]
    pub fn new(cause: AuditCause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

impl From<&Rejection> for Explanation {
    fn from(rejection: &Rejection) -> Self {
        // Counted with the refusals that used up what is verified.
        let reason = match rejection.reason() {
            Reason::Unverified => Reason::Signature,
            reason => reason,
        };
        Self::new(AuditCause::Rejected(reason), rejection.to_string())
    }
}

/// One line of the audit log. It contains no secrets and no text from unauthenticated senders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// What happened.
    pub event: AuditEvent,
    /// The client that knocked.
    pub client: ClientName,
    /// Which of its keys it used.
    pub key: KeyAge,
    /// The requested action, once it is known.
    pub action: Option<ActionName>,
    /// The addresses that were or would have been granted access.
    pub addresses: Vec<IpAddr>,
    /// The source of the knock, if the record is about one.
    pub source: Option<SocketAddr>,
    /// The duration in seconds.
    pub seconds: u32,
    /// Why it did not succeed.
    pub reason: Option<Explanation>,
    /// The knock id, if the record is about one knock.
    pub knock: Option<KnockId>,
    /// How the knock was received, if known.
    pub via: Option<Via>,
    /// What the store of the fleet has decided, if there is one.
    pub claim: Option<ClaimNote>,
}

impl AuditRecord {
    /// A record of knocks that were dropped unread because their client exceeded its limit.
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
            reason: Some(Explanation::new(AuditCause::Throttled, "over its knock limit: dropped unread")),
            knock: None,
            via: None,
            claim: None,
        }
    }

    /// " for N s", for a sentence about what happened. Empty if nothing did: "refused for 30 s" would read like a pause.
    #[must_use]
    pub fn for_seconds(&self) -> String {
        match self.event {
            AuditEvent::Granted | AuditEvent::Done if self.seconds > 0 => format!(" for {} s", self.seconds),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::SignatureFault;

    #[test]
    fn the_names_in_the_log_are_stable() {
        let events = [
            (AuditEvent::Granted, "granted"),
            (AuditEvent::Done, "done"),
            (AuditEvent::Refused, "refused"),
            (AuditEvent::Failed, "failed"),
            (AuditEvent::Expired, "expired"),
            (AuditEvent::Revoked, "revoked"),
            (AuditEvent::Replayed, "replayed"),
            (AuditEvent::Stale, "stale"),
        ];
        for (event, name) in events {
            assert_eq!(event.as_str(), name);
        }
        let ways =
            [(Via::Udp, "udp"), (Via::Ports, "ports"), (Via::Knockd, "knockd"), (Via::Fwknop, "fwknop")];
        for (via, name) in ways {
            assert_eq!(via.as_str(), name);
        }
        let causes = [
            (AuditCause::Rejected(Reason::Stale), "stale"),
            (AuditCause::Throttled, "throttled"),
            (AuditCause::AuditUnavailable, "audit-unavailable"),
            (AuditCause::StateUnavailable, "state-unavailable"),
            (AuditCause::StoreUnavailable, "store-unavailable"),
            (AuditCause::ActionFailed, "action-failed"),
            (AuditCause::CommandFailed, "command-failed"),
            (AuditCause::Timeout, "timeout"),
            (AuditCause::DaemonStopped, "daemon-stopped"),
            (AuditCause::ClientRemoved, "client-removed"),
            (AuditCause::UndoFailed, "undo-failed"),
            (AuditCause::UndoRefused, "undo-refused"),
            (AuditCause::UndoUnknown, "undo-unknown"),
        ];
        for (cause, name) in causes {
            assert_eq!(cause.as_str(), name);
        }
    }

    #[test]
    fn an_unverified_signature_is_logged_as_a_wrong_one_and_every_other_refusal_as_itself() {
        for (rejection, reason) in [
            (Rejection::Signature(SignatureFault::Unverified), Reason::Signature),
            (Rejection::Signature(SignatureFault::Counter), Reason::Counter),
            (Rejection::Replayed, Reason::Replayed),
        ] {
            let explanation = Explanation::from(&rejection);
            assert_eq!(explanation.cause, AuditCause::Rejected(reason));
            assert_eq!(explanation.detail, rejection.to_string());
        }
    }

    #[test]
    fn a_record_of_dropped_knocks_names_the_client_and_its_limit() {
        let record = AuditRecord::throttled("laptop".parse().unwrap());
        assert_eq!((record.event, record.client.as_str()), (AuditEvent::Refused, "laptop"));
        assert_eq!(record.reason.map(|reason| reason.cause), Some(AuditCause::Throttled));
    }

    #[test]
    fn only_what_happened_for_some_time_has_a_duration() {
        for (event, seconds, expected) in [
            (AuditEvent::Granted, 30, " for 30 s"),
            (AuditEvent::Done, 1, " for 1 s"),
            (AuditEvent::Done, 0, ""),
            (AuditEvent::Refused, 30, ""),
            (AuditEvent::Expired, 30, ""),
        ] {
            let record = AuditRecord::throttled("laptop".parse().unwrap());
            assert_eq!(AuditRecord { event, seconds, ..record }.for_seconds(), expected);
        }
    }
}
