//! The file with the stanzas, `~/.fwknoprc`: where it is, and when its problems prevent a packet.

use std::path::{Path, PathBuf};

use spa_knock_fwknop::{ClientFile, ClientOptions, ClientStanza, ConfigProblem, parse_client};

use super::args::StanzaArgs;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::{env, files};

/// The stanzas of a file. A file is never created by reading it.
pub(super) struct StanzaFile {
    pub(super) path: PathBuf,
    file: ClientFile,
}

impl StanzaFile {
    /// Reads the file that is given, else the user's; none if there is none.
    pub(super) fn read(args: &StanzaArgs) -> Result<Option<Self>, ClientError> {
        let Some(path) = path(args) else {
            return match &args.named_config {
                Some(name) => {
                    Err(ClientError::new(ExitCause::Files, format!("{name}: there is no file with stanzas"))
                        .hint("name it with --rc-file FILE"))
                }
                None => Ok(None),
            };
        };
        let is_needed = args.rc_file.is_some() || args.named_config.is_some();
        if !is_needed && !files::exists(&path) {
            return Ok(None);
        }
        Self::open(path).map(Some)
    }

    /// Reads this file.
    pub(super) fn open(path: PathBuf) -> Result<Self, ClientError> {
        let text = files::read_secret(&path)?;
        let file = parse_client(&path, &text);
        Ok(Self { path, file })
    }

    /// The options `given` on the command line, then those of the stanza `name`, then those of `default`.
    pub(super) fn options(
        &self,
        name: Option<&str>,
        given: ClientOptions,
    ) -> Result<ClientOptions, ClientError> {
        print_notices(&self.file.notices);
        let mut options = given;
        if let Some(name) = name {
            options = options.or(&usable(self.stanza(name)?)?.options);
        }
        if let Some(stanza) = self.file.default_stanza() {
            options = options.or(&usable(stanza)?.options);
        }
        Ok(options)
    }

    /// The names of all stanzas except `default`.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.file.named().map(|stanza| stanza.name.as_str())
    }

    /// A stanza.
    ///
    /// # Errors
    /// When there is none of this name.
    pub(super) fn stanza(&self, name: &str) -> Result<&ClientStanza, ClientError> {
        self.file.stanza(name).ok_or_else(|| {
            let names: Vec<_> = self.names().collect();
            let failure = ClientError::new(
                ExitCause::Files,
                format!("{}: there is no stanza [{name}]", self.path.display()),
            );
            if names.is_empty() { failure } else { failure.hint(format!("use one of: {}", names.join(", "))) }
        })
    }

    /// The stanza that applies to all others.
    pub(super) fn default_stanza(&self) -> Option<&ClientStanza> {
        self.file.default_stanza()
    }

    /// What is ignored outside of all stanzas.
    pub(super) fn notices(&self) -> &[ConfigProblem] {
        &self.file.notices
    }
}

/// The path that is given, else that of the user's file.
pub(super) fn path(args: &StanzaArgs) -> Option<PathBuf> {
    if args.no_rc_file {
        return None;
    }
    // On Windows, no shell has replaced `~`.
    let given =
        args.rc_file.as_deref().map(|path| if cfg!(windows) { env::expanded(path) } else { path.to_owned() });
    given.or_else(|| if args.no_home_dir { None } else { user_file() })
}

fn user_file() -> Option<PathBuf> {
    Some(env::home()?.join(Path::new(".fwknoprc")))
}

/// Prints what is ignored in a stanza. A stanza with problems cannot be used.
fn usable(stanza: &ClientStanza) -> Result<&ClientStanza, ClientError> {
    print_notices(&stanza.notices);
    if stanza.problems.is_empty() {
        return Ok(stanza);
    }
    let lines: Vec<_> = stanza.problems.iter().map(ToString::to_string).collect();
    Err(ClientError::new(ExitCause::Files, lines.join("\n")))
}

fn print_notices(notices: &[ConfigProblem]) {
    for notice in notices {
        Reporter::PLAIN.note(&notice.to_string());
    }
}
