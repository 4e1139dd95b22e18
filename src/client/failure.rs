//! How a command ends badly: the exit code, what happened, and what to do about it.

use std::fmt;
use std::process::ExitCode;

use crate::os::files::FileError;

/// Why a command failed. The numbers are the exit codes, a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitCause {
    /// 1: the server refused.
    Refused,
    /// 1: started, and ended with a failure (`--wait-done`).
    Failed,
    /// 2: wrong usage.
    Usage,
    /// 3: sent, but no answer in time.
    NoReply,
    /// 3: granted, but the port to wait for never accepted.
    NotAccepting,
    /// 141: the reader of standard output has closed it, as `head` does; a signal would end another program (SIGPIPE).
    Unread,
    /// 4: name not resolved, no route, nothing sent.
    Network,
    /// 5: key or profile missing, unreadable, too open, malformed.
    Files,
}

/// A failed command, for a person to read.
#[derive(Debug)]
pub(super) struct ClientError {
    cause: ExitCause,
    reason: String,
    hint: Option<String>,
}

impl ExitCause {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Refused | Self::Failed => 1,
            Self::Usage => 2,
            Self::NoReply | Self::NotAccepting => 3,
            Self::Unread => 141,
            Self::Network => 4,
            Self::Files => 5,
        }
    }

    /// The word for it in JSON.
    pub(super) const fn result(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NoReply => "no-reply",
            Self::Usage | Self::NotAccepting | Self::Unread | Self::Network | Self::Files => "error",
        }
    }
}

impl ClientError {
    /// A failure: the object first, lower case, then why.
    pub(super) fn new(cause: ExitCause, reason: impl Into<String>) -> Self {
        Self { cause, reason: reason.into(), hint: None }
    }

    /// The same, with a way out.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same, with a word for what kind of object it is about.
    pub(super) fn of(self, object: &str) -> Self {
        Self { reason: format!("{object}{}", self.reason), ..self }
    }

    pub(super) const fn cause(&self) -> ExitCause {
        self.cause
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// What to do about it; empty where nobody knows.
    pub(super) fn advice(&self) -> &str {
        self.hint.as_deref().unwrap_or_default()
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
        }
    }
}
