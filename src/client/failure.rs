//! Failed commands: the exit code, the reason, and a hint.

use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;

use super::fan_out::outcome::ServerOutcome;
use crate::os::files::FileError;

/// Why a command failed. The numbers are the exit codes, on which scripts rely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitCause {
    /// 1: the server refused.
    Refused,
    /// 1: the command started, and failed (`--wait-done`).
    Failed,
    /// 2: invalid usage.
    Usage,
    /// 3: sent, but no reply in time.
    NoReply,
    /// 3: the command started, but its end was not reported in time (`--wait-done`).
    EndUnknown,
    /// 3: granted, but the `--wait` port never accepted a connection.
    NotAccepting,
    /// 141: the reader of standard output has closed it, as `head` does. Other programs are killed by SIGPIPE.
    Unread,
    /// 4: name not resolved, no route, or nothing sent.
    Network,
    /// 5: key or profile missing, unreadable, accessible to others, or malformed.
    Files,
    /// 126: the command of `keep` cannot be executed, as in a shell.
    CommandNotExecutable,
    /// 127: there is no such command.
    CommandNotFound,
}

/// Human-readable description of a failed command.
#[derive(Debug, Clone)]
pub(super) struct ClientError {
    cause: ExitCause,
    reason: String,
    hint: Option<String>,
    /// The address that the server saw, if it refused.
    observed: Option<IpAddr>,
    /// The outcome at each server, if several were knocked at.
    servers: Option<Vec<ServerOutcome>>,
}

impl ExitCause {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Refused | Self::Failed => 1,
            Self::Usage => 2,
            Self::NoReply | Self::EndUnknown | Self::NotAccepting => 3,
            Self::Unread => 141,
            Self::Network => 4,
            Self::Files => 5,
            Self::CommandNotExecutable => 126,
            Self::CommandNotFound => 127,
        }
    }

    /// The value of `result` in JSON.
    pub(super) const fn result(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NoReply | Self::EndUnknown => "no-reply",
            Self::Usage
            | Self::NotAccepting
            | Self::Unread
            | Self::Network
            | Self::Files
            | Self::CommandNotExecutable
            | Self::CommandNotFound => "error",
        }
    }
}

impl ClientError {
    /// Creates an error. `reason` is in lower case: the object first, then what is wrong with it.
    pub(super) fn new(cause: ExitCause, reason: impl Into<String>) -> Self {
        Self { cause, reason: reason.into(), hint: None, observed: None, servers: None }
    }

    /// Adds a hint: what the user can do.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Adds the address that the server saw.
    pub(super) fn observed_at(self, address: IpAddr) -> Self {
        Self { observed: Some(address), ..self }
    }

    /// Adds the outcome at each server, after a knock at several.
    pub(super) fn at_servers(self, servers: Option<Vec<ServerOutcome>>) -> Self {
        Self { servers, ..self }
    }

    /// Puts the kind of the object in front of the reason.
    pub(super) fn with_object(self, object: &str) -> Self {
        Self { reason: format!("{object}{}", self.reason), ..self }
    }

    pub(super) const fn cause(&self) -> ExitCause {
        self.cause
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The hint; empty if there is none.
    pub(super) fn advice(&self) -> &str {
        self.hint.as_deref().unwrap_or_default()
    }

    /// The address that the server saw; none if it did not refuse.
    pub(super) const fn observed(&self) -> Option<IpAddr> {
        self.observed
    }

    /// The outcome at each server; none if at most one was knocked at.
    pub(super) fn servers(&self) -> Option<&[ServerOutcome]> {
        self.servers.as_deref()
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        self.cause.code().into()
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl From<FileError> for ClientError {
    fn from(error: FileError) -> Self {
        Self {
            cause: ExitCause::Files,
            reason: format!("{}: {}", error.path, error.reason),
            hint: error.hint,
            observed: None,
            servers: None,
        }
    }
}
