//! The outcome at each of several servers: for scripts, as a line of text, and as one exit code for all.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::exchange::times;
use crate::client::knock::{KnockSuccess, origin};

/// The outcome at one server or address, in JSON. Fields that are unknown are null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::client) struct ServerOutcome {
    /// The server's name in the group, or SERVER.
    server: String,
    /// The address that the knock was sent to.
    server_address: Option<String>,
    /// As for a single server, or `pending`.
    result: &'static str,
    /// The exit code that this outcome has for a single server.
    code: u8,
    /// Why nothing is granted.
    reason: Option<String>,
    /// The address that the server saw, if it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<String>,
    /// The address that got access.
    address: Option<String>,
    /// Duration of the grant.
    seconds: Option<u32>,
    /// Time on the server's clock.
    server_time_ms: Option<u64>,
    /// Time from the knock to its reply.
    round_trip_ms: Option<f64>,
    /// The same as a line of text.
    #[serde(skip)]
    text: String,
}

/// A server or address whose outcome is described.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// SERVER, as typed.
    pub(super) typed: &'a str,
    /// The server's name in the group, or SERVER.
    pub(super) member: &'a str,
    /// The address that the knock goes to; none if it is not known.
    pub(super) address: Option<SocketAddr>,
}

/// What a server has replied until now, if its knock has no outcome yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnockProgress {
    /// Its name is being resolved.
    Unresolved,
    /// Its knock has no signature yet.
    Unsigned,
    /// Its knock, which wants no reply, is being sent.
    Unsent,
    /// Nothing; the knock was sent so many times.
    Silent(usize),
    /// It saw another address, and a second knock follows.
    Replied,
}

impl ServerOutcome {
    /// A knock that was not refused.
    pub(super) fn success(subject: Subject<'_>, knocked: &KnockSuccess) -> Self {
        let success = &knocked.success;
        Self {
            server_address: knocked.servers.first().map(|server| server.ip().to_string()),
            address: success.address.clone(),
            seconds: success.seconds,
            server_time_ms: success.server_time_ms,
            round_trip_ms: success.round_trip_ms,
            ..Self::new(subject, success.result, 0, None, knocked.text.clone())
        }
    }

    /// A knock that failed.
    pub(super) fn failure(subject: Subject<'_>, failure: &ClientError) -> Self {
        let reason = reason_with_names(subject, failure);
        let cause = failure.cause();
        Self {
            observed: failure.observed().map(|address| address.to_string()),
            ..Self::new(subject, cause.result(), cause.code(), Some(reason.clone()), reason)
        }
    }

    /// A knock without an outcome.
    pub(super) fn undecided(subject: Subject<'_>, undecided: KnockProgress) -> Self {
        let member = Some(subject.member).filter(|member| *member != subject.typed);
        let from = subject.address.map_or_else(|| subject.member.to_owned(), |at| origin(member, at.ip()));
        let typed = subject.typed;
        let (cause, result, reason) = match undecided {
            KnockProgress::Unresolved => (
                ExitCause::Network,
                ExitCause::Network.result(),
                format!("{typed}: {from}: the name is not resolved yet"),
            ),
            KnockProgress::Unsigned => {
                (ExitCause::NoReply, "pending", format!("{typed}: {from}: the knock was not signed yet"))
            }
            KnockProgress::Unsent => {
                (ExitCause::NoReply, "pending", format!("{typed}: {from}: the knock was not sent yet"))
            }
            KnockProgress::Silent(number) => (
                ExitCause::NoReply,
                ExitCause::NoReply.result(),
                format!("{typed}: no reply yet from {from}: the knock was sent {}", times(number)),
            ),
            KnockProgress::Replied => (
                ExitCause::NoReply,
                "pending",
                format!("{typed}: not granted yet by {from}: it replied, and a second knock is under way"),
            ),
        };
        Self::new(subject, result, cause.code(), Some(reason.clone()), reason)
    }

    /// The server's name in the group, or SERVER.
    pub(in crate::client) fn server(&self) -> &str {
        &self.server
    }

    /// The address that the knock was sent to, if it is known.
    pub(in crate::client) fn address(&self) -> Option<IpAddr> {
        self.server_address.as_ref()?.parse().ok()
    }

    /// How long the server has opened something: zero for nothing, none without a reply.
    ///
    /// # Errors
    /// The exit code and the reason, if it has not.
    pub(in crate::client) fn grant(&self) -> Result<Option<Duration>, (u8, &str)> {
        match self.reason.as_deref() {
            None => Ok(self.seconds.map(|seconds| Duration::from_secs(seconds.into()))),
            Some(reason) => Err((self.code, reason)),
        }
    }

    /// One line of text.
    pub(in crate::client) fn text(&self) -> &str {
        &self.text
    }

    /// Whether this is the outcome that the error of the whole knock describes.
    pub(in crate::client) fn is_about(&self, failure: &ClientError) -> bool {
        self.reason.as_deref() == Some(failure.reason())
    }

    fn new(
        subject: Subject<'_>,
        result: &'static str,
        code: u8,
        reason: Option<String>,
        text: String,
    ) -> Self {
        Self {
            server: subject.member.to_owned(),
            server_address: subject.address.map(|address| address.ip().to_string()),
            result,
            code,
            reason,
            observed: None,
            address: None,
            seconds: None,
            server_time_ms: None,
            round_trip_ms: None,
            text,
        }
    }
}

/// The error of one server as the error of the whole knock, with the names of both.
pub(super) fn with_names(subject: Subject<'_>, failure: &ClientError) -> ClientError {
    let named = ClientError::new(failure.cause(), reason_with_names(subject, failure));
    let named = match failure.observed() {
        Some(address) => named.observed_at(address),
        None => named,
    };
    match failure.advice() {
        "" => named,
        advice => named.hint(advice),
    }
}

/// The order in which failures decide the exit code: first what a server has replied, then that there was no reply, then
/// what prevented the knock.
pub(super) const fn rank(cause: ExitCause) -> u8 {
    match cause {
        ExitCause::Refused | ExitCause::Failed => 0,
        ExitCause::EndUnknown => 1,
        ExitCause::NoReply | ExitCause::NotAccepting => 2,
        ExitCause::Network => 3,
        ExitCause::Files => 4,
        // The codes of a command do not describe a server.
        ExitCause::Usage
        | ExitCause::Unread
        | ExitCause::CommandNotExecutable
        | ExitCause::CommandNotFound => 5,
    }
}

/// The reason, with SERVER and the name in the group in front where it does not name them.
fn reason_with_names(subject: Subject<'_>, failure: &ClientError) -> String {
    let Subject { typed, member, .. } = subject;
    let reason = failure.reason();
    let is_named = match failure.cause() {
        ExitCause::Refused
        | ExitCause::Failed
        | ExitCause::EndUnknown
        | ExitCause::NoReply
        | ExitCause::NotAccepting => true,
        ExitCause::Network
        | ExitCause::Files
        | ExitCause::Usage
        | ExitCause::Unread
        | ExitCause::CommandNotExecutable
        | ExitCause::CommandNotFound => typed == member,
    };
    let is_prefixed = reason.strip_prefix(typed).is_some_and(|rest| rest.starts_with(": "));
    if is_named || is_prefixed {
        reason.to_owned()
    } else if reason.strip_prefix(member).is_some_and(|rest| rest.starts_with(':')) {
        format!("{typed}: {reason}")
    } else {
        format!("{typed}: {member}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B1: Subject<'_> = Subject { typed: "bastions", member: "b1", address: None };

    #[test]
    fn a_refusal_decides_the_exit_code_before_silence_and_silence_before_local_failures() {
        let code = |causes: &[ExitCause]| {
            causes.iter().min_by_key(|cause| rank(**cause)).map(|cause| cause.code()).unwrap()
        };
        use ExitCause::{EndUnknown, Failed, Files, Network, NoReply, Refused, Usage};
        for (causes, expected) in [
            (&[NoReply, Refused, Files][..], 1),
            (&[Refused, Refused], 1),
            (&[NoReply, Failed], 1),
            (&[NoReply, EndUnknown], 3),
            (&[Files, Network, NoReply], 3),
            (&[Files, Network], 4),
            (&[Files, Usage], 5),
            (&[Usage], 2),
        ] {
            assert_eq!(code(causes), expected, "{causes:?}");
        }
    }

    #[test]
    fn an_error_names_the_group_and_the_server_once() {
        for (cause, reason, named) in [
            (ExitCause::Files, "key file /k: no such file", "bastions: b1: key file /k: no such file"),
            (ExitCause::Network, "b1: cannot be resolved", "bastions: b1: cannot be resolved"),
            (ExitCause::Network, "b1.example: no", "bastions: b1: b1.example: no"),
            (ExitCause::Refused, "bastions: open-ssh refused by b1", "bastions: open-ssh refused by b1"),
        ] {
            assert_eq!(with_names(B1, &ClientError::new(cause, reason)).reason(), named);
        }
        let alone = Subject { typed: "b1", ..B1 };
        assert_eq!(with_names(alone, &ClientError::new(ExitCause::Files, "key")).reason(), "key");
    }

    #[test]
    fn a_server_without_an_outcome_is_described_by_what_it_has_replied() {
        let at = Subject { address: Some(([203, 0, 113, 1], 62201).into()), ..B1 };
        for (undecided, result, code, text) in [
            (
                KnockProgress::Silent(2),
                "no-reply",
                3,
                "bastions: no reply yet from b1 (203.0.113.1): the knock was sent twice",
            ),
            (
                KnockProgress::Replied,
                "pending",
                3,
                "bastions: not granted yet by b1 (203.0.113.1): it replied, and a second knock is under way",
            ),
            (
                KnockProgress::Unsigned,
                "pending",
                3,
                "bastions: b1 (203.0.113.1): the knock was not signed yet",
            ),
            (KnockProgress::Unsent, "pending", 3, "bastions: b1 (203.0.113.1): the knock was not sent yet"),
        ] {
            let outcome = ServerOutcome::undecided(at, undecided);
            assert_eq!((outcome.result, outcome.code, outcome.text()), (result, code, text));
        }
        let unresolved = ServerOutcome::undecided(B1, KnockProgress::Unresolved);
        assert_eq!((unresolved.code, unresolved.text()), (4, "bastions: b1: the name is not resolved yet"));
    }
}
