//! Errors of signing, each with what the user can do.

use std::io;
use std::path::Path;

use super::connection::ConnectionError;
use super::messages::AnswerError;
use super::public_key_file::private_path;
use super::{LIST_TIME, SIGN_TIME, Signing};
use crate::client::failure::{ClientError, ExitCause};
use crate::os::files::io_error_text;

/// How to start an agent.
const START: &str = if cfg!(windows) {
    r#"start the service as an administrator: Set-Service ssh-agent -StartupType Manual; Start-Service ssh-agent. Then add the key with `ssh-add`. Or set `agent` in the profile to the pipe of another agent"#
} else {
    r#"start an agent with `eval "$(ssh-agent)"` and add the key with `ssh-add`, or set `agent` in the profile to the socket of another agent"#
};

impl Signing {
    /// There is no socket to connect to.
    pub(super) fn no_agent(&self) -> ClientError {
        let reason = format!(
            "ssh-agent: $SSH_AUTH_SOCK is not set, so no agent can sign with the key {}",
            self.fingerprint()
        );
        ClientError::new(ExitCause::Files, reason).hint(START)
    }

    /// The agent does not have the key.
    pub(super) fn no_key(&self) -> ClientError {
        let reason = format!("{}: does not have the key {}", self.agent_name(), self.fingerprint());
        ClientError::new(ExitCause::Files, reason).hint(self.how_to_add())
    }

    /// How to add the key to the agent.
    pub(in crate::client) fn how_to_add(&self) -> String {
        const MORE: &str = "`ssh-add -l` lists the keys of the agent (none while it is locked: `ssh-add -X`)";
        match self.file.as_deref().map(private_path) {
            Some(file) => format!("add it with `ssh-add {}`; {MORE}", file.display()),
            None => format!(
                "add it with `ssh-add FILE`, where FILE is its private key, or with `ssh-add -K` if it is stored in a FIDO device; {MORE}"
            ),
        }
    }

    /// No list of keys.
    pub(super) fn no_list(&self, error: ConnectionError) -> ClientError {
        match error {
            ConnectionError::Connect(error) => {
                let reason = format!("{}: cannot be reached: {}", self.agent_name(), io_error_text(&error));
                let failure = ClientError::new(ExitCause::Files, reason);
                match error.kind() {
                    io::ErrorKind::PermissionDenied => failure.hint("the agent belongs to another user: set `agent` in the profile to the socket of your own"),
                    _ => failure.hint(START),
                }
            }
            ConnectionError::Time => {
                let reason = format!("{}: no answer within {} s", self.agent_name(), LIST_TIME.as_secs());
                ClientError::new(ExitCause::Files, reason)
                    .hint("check whether `ssh-add -l` prints the keys; if it does not, restart the agent")
            }
            ConnectionError::Io(error) => self.broken(&error),
            ConnectionError::Answer(error) => self.bad_list(error),
        }
    }

    /// The list of keys is malformed, or the agent refuses it.
    pub(super) fn bad_list(&self, error: AnswerError) -> ClientError {
        if error == AnswerError::Refused {
            let reason = format!("{}: refused to list its keys", self.agent_name());
            return ClientError::new(ExitCause::Files, reason).hint("unlock the agent with `ssh-add -X`");
        }
        self.malformed(&error.to_string())
    }

    /// No signature.
    pub(super) fn no_signature(&self, error: ConnectionError) -> ClientError {
        match error {
            ConnectionError::Time => self.late(),
            ConnectionError::Connect(error) | ConnectionError::Io(error) => self.broken(&error),
            ConnectionError::Answer(error) => self.bad_answer(error),
        }
    }

    /// The signature arrives too late, or not at all.
    pub(super) fn late(&self) -> ClientError {
        let reason = format!(
            "{}: no signature with the key {} within {} s; nothing was sent",
            self.agent_name(),
            self.fingerprint(),
            SIGN_TIME.as_secs()
        );
        ClientError::new(ExitCause::Files, reason).hint("knock again, and touch the device or confirm within that time; the agent's question may be in another window (SSH_ASKPASS)")
    }

    /// The answer to the request for a signature is malformed, or the agent refuses.
    pub(super) fn bad_answer(&self, error: AnswerError) -> ClientError {
        if error == AnswerError::Refused {
            let reason =
                format!("{}: refused to sign with the key {}", self.agent_name(), self.fingerprint());
            return ClientError::new(ExitCause::Files, reason).hint("possible causes: the agent is locked (`ssh-add -X`), you declined, the PIN was wrong, the device is not connected, or the key was added with `ssh-add -h`, which forbids signatures for knocks");
        }
        self.malformed(&error.to_string())
    }

    /// The agent has made a signature that is of no use.
    pub(super) fn malformed(&self, reason: &str) -> ClientError {
        ClientError::new(ExitCause::Files, format!("{}: {reason}; nothing was sent", self.agent_name()))
            .hint("update the agent, or set `agent` in the profile to the socket of another agent, such as OpenSSH's")
    }

    fn broken(&self, error: &io::Error) -> ClientError {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => "closed the connection".to_owned(),
            _ => io_error_text(error),
        };
        ClientError::new(ExitCause::Files, format!("{}: {reason}; nothing was sent", self.agent_name()))
            .hint("check whether `ssh-add -l` prints the keys; if it does not, restart the agent")
    }

    /// The agent, for messages.
    pub(in crate::client) fn agent_name(&self) -> String {
        let path = self.agent.as_deref().unwrap_or(Path::new(""));
        format!("ssh-agent {}", path.display())
    }
}
