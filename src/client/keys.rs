//! Which key a command uses: the places that are looked at, in their order. What a key file must be like is the
//! business of `os::files` and `crypto`.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::failure::{Cause, Failure};
use crate::crypto::{Holder, KeyFile, KeySet};
use crate::knock::ServerId;
use crate::os::{env, files, secret_command};

/// The variable that may hold a key file's text or a token, where there is no place for a file.
pub(super) const VARIABLE: &str = "SPA_KNOCK_KEY";

/// A key and where it was found.
pub(super) struct Key {
    /// What it says.
    pub(super) file: KeyFile,
    /// Where it was found.
    pub(super) origin: Origin,
}

/// Where a key was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// In this file.
    File(PathBuf),
    /// On standard input.
    StandardInput,
    /// In `$SPA_KNOCK_KEY`.
    Environment,
    /// The output of this program.
    Command(String),
}

/// The key that a profile names.
pub(super) enum Profiled {
    /// In this file.
    File(PathBuf),
    /// What this program, with these arguments, prints.
    Command(Vec<String>),
}

impl Key {
    /// The key for knocking at `server`: `given` on the command line, else in the environment, else `profiled`,
    /// else in the folder of keys, else the one for all servers.
    pub(super) fn for_server(
        given: Option<&Path>,
        profiled: Option<Profiled>,
        server: &str,
    ) -> Result<Self, Failure> {
        match (Self::explicit(given)?, profiled) {
            (Some(key), _) => Ok(key),
            (None, Some(Profiled::File(path))) => Self::from_file(path),
            (None, Some(Profiled::Command(command))) => Self::from_command(&command),
            (None, None) => Self::first_of(&[named(server), common()]),
        }
    }

    /// The key for a command that knows no server.
    pub(super) fn for_command(given: Option<&Path>) -> Result<Self, Failure> {
        match Self::explicit(given)? {
            Some(key) => Ok(key),
            None => Self::first_of(&[common()]),
        }
    }

    /// The seven keys of it for one server.
    pub(super) fn keys(&self, server: &ServerId) -> KeySet {
        match &self.file.holder {
            Holder::Pair { secret, .. } => secret.keys(server),
            Holder::Root(root) => root.pair(server).keys(server),
        }
    }

    /// The server of a pair key.
    pub(super) const fn server(&self) -> Option<&ServerId> {
        match &self.file.holder {
            Holder::Pair { server, .. } => Some(server),
            Holder::Root(_) => None,
        }
    }

    /// `pair` or `root`.
    pub(super) const fn kind(&self) -> &'static str {
        match &self.file.holder {
            Holder::Pair { .. } => "pair",
            Holder::Root(_) => "root",
        }
    }

    fn explicit(given: Option<&Path>) -> Result<Option<Self>, Failure> {
        match given {
            Some(path) if path.as_os_str() == OsStr::new("-") => {
                let text = files::read_secret_from_stdin()?;
                Self::parse(&text, Origin::StandardInput).map(Some)
            }
            Some(path) => Self::from_file(path.to_owned()).map(Some),
            None => env::text(VARIABLE)
                .map(Zeroizing::new)
                .map(|text| {
                    if KeyFile::is_token(&text) {
                        return Self::from_token(&text, Origin::Environment);
                    }
                    Self::parse(&text, Origin::Environment).map_err(|failure| {
                        match text.trim().lines().count() {
                            1 => failure.hint(format!(
                                "${VARIABLE} takes a token, or the text of the key file with its line ends, not its path"
                            )),
                            _ => failure,
                        }
                    })
                })
                .transpose(),
        }
    }

    fn first_of(places: &[Option<PathBuf>]) -> Result<Self, Failure> {
        let places: Vec<_> = places.iter().flatten().collect();
        for path in &places {
            if files::exists(path) {
                return Self::from_file((*path).clone());
            }
        }
        let looked: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        Err(Failure::new(
            Cause::Files,
            format!(
                "no key: neither --key nor ${VARIABLE} is given, and there is no {}",
                looked.join(" or ")
            ),
        )
        .hint("spa-knock keygen -o ~/.knock.key makes one; spa-knockd client add NAME, on the server, too"))
    }

    fn from_file(path: PathBuf) -> Result<Self, Failure> {
        let text = files::read_secret(&path).map_err(|error| {
            // The folder's permissions may be the problem; then it says so itself.
            let object = if Path::new(&error.path) == path { "key file " } else { "folder " };
            let failure = Failure::new(Cause::Files, format!("{object}{}: {}", error.path, error.reason));
            match error.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        Self::parse(&text, Origin::File(path))
    }

    fn from_command(command: &[String]) -> Result<Self, Failure> {
        let text = secret_command::output_of(command).map_err(|error| {
            Failure::new(Cause::Files, format!("key-command {error}"))
                .hint("what it prints on standard output must be a key file's text; try it in a shell")
        })?;
        // Arguments may be private, the program's name tells enough.
        Self::parse(&text, Origin::Command(command.first().cloned().unwrap_or_default()))
    }

    fn from_token(token: &str, origin: Origin) -> Result<Self, Failure> {
        match KeyFile::from_token(token) {
            Ok(file) => Ok(Self { file, origin }),
            Err(error) => Err(Failure::new(Cause::Files, format!("{origin}: {error}"))
                .hint("copy the token again, from the first character to the last")),
        }
    }

    fn parse(text: &str, origin: Origin) -> Result<Self, Failure> {
        match KeyFile::parse(text) {
            Ok(file) => Ok(Self { file, origin }),
            Err(error) => Err(Failure::new(Cause::Files, format!("{origin}: {error}"))),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "key file {}", path.display()),
            Self::StandardInput => f.write_str("key on standard input"),
            Self::Environment => write!(f, "key in ${VARIABLE}"),
            Self::Command(program) => write!(f, "key from key-command {program}"),
        }
    }
}

/// `~/.config/spa-knock/SERVER.key`.
pub(super) fn named(server: &str) -> Option<PathBuf> {
    // A name with a separator would reach out of the folder.
    let plain = !server.contains(['/', '\\', '\0']);
    plain
        .then(env::config_home)
        .flatten()
        .map(|folder| folder.join("spa-knock").join(format!("{server}.key")))
}

/// `~/.knock.key`.
fn common() -> Option<PathBuf> {
    env::home().map(|home| home.join(".knock.key"))
}
