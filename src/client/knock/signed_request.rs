//! What an SSH key changes in a request: which key signs the knocks, their version, and what is learned from replies.

use std::io::{self, IsTerminal as _};

use super::plan::Learning;
use super::profiles::ProfileFile;
use super::request::KnockRequest;
use crate::client::agent::Signing;
use crate::client::args::{CommonArgs, Output};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::sources::Key;
use crate::config::{LearnChoice, Profile, SignChoice};
use crate::os::env;
use spa_knock_core::crypto::KeySet;
use spa_knock_core::knock::ProtocolVersion;

/// Whether the user can be asked before something is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Questions {
    /// At the terminal.
    AtTerminal,
    /// No one can be asked.
    None,
}

impl Questions {
    /// For a command with this output. A program, which reads JSON, answers none, even if its user has a terminal.
    pub(super) fn beside(output: Output) -> Self {
        if output == Output::Text { Self::at_terminal() } else { Self::None }
    }

    /// For a command whose user may have a terminal.
    pub(super) fn at_terminal() -> Self {
        if io::stderr().is_terminal() { Self::AtTerminal } else { Self::None }
    }
}

impl KnockRequest {
    /// The version of its knocks: 2 if an SSH key signs them.
    pub(in crate::client) const fn version(&self) -> ProtocolVersion {
        if self.signing.is_some() { ProtocolVersion::V2 } else { ProtocolVersion::V1 }
    }

    /// Derives the keys for the server.
    pub(in crate::client) fn keys(&self) -> KeySet {
        self.key.file.keys(self.version(), &self.target.id)
    }

    /// The same request, without questions.
    pub(in crate::client) fn without_questions(self) -> Self {
        let learning = match self.learning {
            Learning::WithConsent => Learning::Never,
            learning => learning,
        };
        Self { learning, ..self }
    }
}

/// The SSH key that signs the knocks, from command line, profile and key file.
pub(super) fn signing(
    key: &Key,
    profile: &Profile,
    profiles: &ProfileFile,
    args: &CommonArgs,
) -> Result<Option<Signing>, ClientError> {
    let typed = args.sign.as_deref().map(|path| match SignChoice::of(path.as_os_str()) {
        // On Windows, no shell has replaced `~`.
        SignChoice::File(path) if cfg!(windows) => SignChoice::File(env::expanded(&path)),
        choice => choice,
    });
    let profiled = || {
        profile.sign.as_ref().map(|choice| match choice {
            SignChoice::Agent => SignChoice::Agent,
            SignChoice::File(path) => SignChoice::File(profiles.path(path)),
        })
    };
    let agent = profile.agent.as_deref().map(|path| profiles.path(path));
    let signing = Signing::new(typed.or_else(profiled), key, agent)?;
    match &signing {
        Some(signing) if args.ports.ports => Err(not_signed(signing)),
        _ => Ok(signing),
    }
}

/// Whether a second knock claims the address in a reply.
pub(super) fn learning(signing: Option<&Signing>, profile: &Profile, questions: Questions) -> Learning {
    match (signing, profile.learn, questions) {
        (None, _, _) | (Some(_), Some(LearnChoice::Reply), _) => Learning::FromReply,
        (Some(_), None | Some(LearnChoice::Ask), Questions::AtTerminal) => Learning::WithConsent,
        (Some(_), None | Some(LearnChoice::Ask), Questions::None) => Learning::Never,
    }
}

fn not_signed(signing: &Signing) -> ClientError {
    ClientError::new(
        ExitCause::Usage,
        format!(
            "--ports: a port sequence cannot carry the signature of the SSH key {}",
            signing.fingerprint()
        ),
    )
    .hint("knock without --ports; a client with an SSH key has no port sequences")
}
