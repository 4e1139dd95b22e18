//! Signs knocks with an SSH key, which an agent holds (`docs/internals/protocol-2.md`, sections 8 and 9). Decides which
//! key signs, and waits for the agent. Knows neither the server nor what the knock requests.

mod connection;
mod failure;
mod messages;
mod public_key_file;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::failure::{ClientError, ExitCause};
use super::keys::sources::Key;
use super::report::Reporter;
use crate::config::SignChoice;
use crate::os::{clock, env};
use connection::{Connection, ConnectionError};
use spa_knock_core::crypto::ssh::{KnockMessage, PublicKey, PublicKeyKind, RawSignature, SshFingerprint};
use spa_knock_core::knock::{Steady, Timestamp};

/// How long connecting and listing the keys may take.
const LIST_TIME: Duration = Duration::from_secs(2);
/// How long a signature may take: the server's window (30 s) begins at the knock's timestamp.
const SIGN_TIME: Duration = Duration::from_secs(20);
/// When a message explains why nothing happens.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// The variable with the agent's socket.
const SOCKET: &str = "SSH_AUTH_SOCK";
/// The agent of Windows.
const PIPE: &str = r"\\.\pipe\openssh-ssh-agent";

/// Held while an agent is in use: a person can answer one question at a time, and touch one device.
static ASKING: Mutex<()> = Mutex::new(());

/// Which SSH key signs the knocks of a request, and where.
#[derive(Debug)]
pub(in crate::client) struct Signing {
    wanted: SshFingerprint,
    /// The public key file, if one is given.
    file: Option<PathBuf>,
    /// The agent's socket; none if there is none to use.
    agent: Option<PathBuf>,
    /// The kind of the key, once the agent has listed it.
    kind: OnceLock<PublicKeyKind>,
    /// Whether the latest signature took so long that a person probably had to do something.
    was_slow: AtomicBool,
}

/// An agent that has the key.
pub(in crate::client) struct KeyInAgent<'a> {
    signing: &'a Signing,
    key: PublicKey,
    connection: Connection,
    _asking: MutexGuard<'static, ()>,
}

impl Signing {
    /// The key that signs knocks under the key file `key`; none if they are knocks of version 1. `agent` is the profile's.
    ///
    /// # Errors
    /// If `choice` and the key file name different keys, or neither names one.
    pub(in crate::client) fn new(
        choice: Option<SignChoice>,
        key: &Key,
        agent: Option<PathBuf>,
    ) -> Result<Option<Self>, ClientError> {
        let agent = agent.or_else(usual_agent);
        let file = match (choice, key.file.ssh_key) {
            (None, None) => return Ok(None),
            (None | Some(SignChoice::Agent), Some(wanted)) => {
                return Ok(Some(Self::by(wanted, None, agent)));
            }
            (Some(SignChoice::Agent), None) => {
                return Err(ClientError::new(
                    ExitCause::Files,
                    format!(
                        "{}: has no line `ssh-key: SHA256:…`, so it does not name the key in the agent",
                        key.origin
                    ),
                )
                .hint("name its public key file: --sign FILE.pub"));
            }
            (Some(SignChoice::File(file)), _) => file,
        };
        let wanted = public_key_file::read(&file)?.fingerprint();
        match key.file.ssh_key {
            Some(keyed) if keyed != wanted => Err(ClientError::new(
                ExitCause::Files,
                format!("{}: is for the SSH key {keyed}, but {} is {wanted}", key.origin, file.display()),
            )
            .hint("omit --sign to use the key that the key file names; for another key, the server's administrator runs `spa-knockd client rotate NAME --ssh-key FILE.pub`, and gives you a new key file")),
            _ => Ok(Some(Self::by(wanted, Some(file), agent))),
        }
    }

    /// The key of a key file, in the usual agent; none for version 1.
    pub(in crate::client) fn of_key_file(ssh_key: Option<SshFingerprint>) -> Option<Self> {
        ssh_key.map(|wanted| Self::by(wanted, None, usual_agent()))
    }

    const fn by(wanted: SshFingerprint, file: Option<PathBuf>, agent: Option<PathBuf>) -> Self {
        Self { wanted, file, agent, kind: OnceLock::new(), was_slow: AtomicBool::new(false) }
    }

    /// The fingerprint of the key.
    pub(in crate::client) const fn fingerprint(&self) -> SshFingerprint {
        self.wanted
    }

    /// The name of the key, if it is in a FIDO device, so that each signature needs a person. Known after the first
    /// signature.
    pub(in crate::client) fn fido_name(&self) -> Option<String> {
        let kind = self.kind.get().filter(|kind| kind.is_fido())?;
        Some(format!("{} {}", kind.short_name(), self.wanted))
    }

    /// Whether the latest signature needed a person: to touch a FIDO device, or to confirm it in the agent (`ssh-add -c`) or
    /// at a smart card, which shows only in the time that it took.
    pub(in crate::client) fn needs_person(&self) -> bool {
        self.kind.get().is_some_and(|kind| kind.is_fido()) || self.was_slow.load(Ordering::Relaxed)
    }

    /// Finds the key in the agent. Waits while another thread uses an agent.
    ///
    /// # Errors
    /// If there is no agent, or it does not have the key.
    pub(in crate::client) fn open(&self) -> Result<KeyInAgent<'_>, ClientError> {
        let asking = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.agent.as_deref().ok_or_else(|| self.no_agent())?;
        let end = clock::steady().plus(LIST_TIME);
        let connection =
            Connection::start(path, messages::list_request(), end).map_err(|error| self.no_list(error))?;
        let answer = connection.answer(end).map_err(|error| self.no_list(error))?;
        let blob = messages::key_in_list(&answer, self.wanted).map_err(|error| self.bad_list(error))?;
        let blob = blob.ok_or_else(|| self.no_key())?;
        let key = PublicKey::from_blob(&blob).map_err(|error| {
            ClientError::new(ExitCause::Files, format!("SSH key {}: {error}", self.wanted))
        })?;
        let _ = self.kind.set(key.kind());
        Ok(KeyInAgent { signing: self, key, connection, _asking: asking })
    }
}

impl KeyInAgent<'_> {
    /// The public key.
    pub(in crate::client) const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Requests a signature of a knock that was made at `start`, with this timestamp.
    ///
    /// # Errors
    /// If the agent refuses, or its signature is malformed or late.
    pub(in crate::client) fn sign(
        &self,
        message: &KnockMessage,
        (start, timestamp): (Steady, Timestamp),
        report: &Reporter,
    ) -> Result<RawSignature, ClientError> {
        let (signing, kind) = (self.signing, self.key.kind());
        let end = start.plus(SIGN_TIME);
        self.connection.send(messages::sign_request(self.key.blob(), &message.signed_data()), end);
        let answer = if kind.is_fido() {
            report.prompt(&format!("Confirm user presence for key {} {}", kind.short_name(), signing.wanted));
            self.connection.answer(end)
        } else {
            let answer = self.connection.answer(start.plus(QUIET_TIME));
            let is_slow = matches!(answer, Err(ConnectionError::Time));
            signing.was_slow.store(is_slow, Ordering::Relaxed);
            match answer {
                Err(ConnectionError::Time) => {
                    report.prompt("waiting for ssh-agent; it may be asking for confirmation");
                    self.connection.answer(end)
                }
                answer => answer,
            }
        };
        let answer = answer.map_err(|error| signing.no_signature(error))?;
        // The monotonic clock does not count while the machine sleeps.
        if clock::wall().distance(timestamp) > SIGN_TIME || clock::steady() >= end {
            return Err(signing.late());
        }
        let signature = messages::signature_in(&answer).map_err(|error| signing.bad_answer(error))?;
        RawSignature::from_agent(kind, signature).map_err(|error| signing.malformed(&error.to_string()))
    }

    /// The error for a signature that the key did not make.
    pub(in crate::client) fn invalid(&self) -> ClientError {
        self.signing.malformed(&format!("its signature is not one of the key {}", self.signing.wanted))
    }
}

fn usual_agent() -> Option<PathBuf> {
    if cfg!(windows) { Some(PIPE.into()) } else { env::path(SOCKET) }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
