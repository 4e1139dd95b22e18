//! Which key a command uses: the sources of keys, in order of precedence. `os::files` and `crypto` decide which key
//! files are valid.

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::client::failure::{ClientError, ExitCause};
use crate::config::public_key_file;
use crate::os::process::secret_command;
use crate::os::{env, files};
use spa_knock_core::crypto::{KeyFile, KeyOwner};
use spa_knock_core::knock::{ServerId, canonical};

/// The environment variable that may hold the text of a key file or a token, for hosts without a place for a file.
pub(in crate::client) const VARIABLE: &str = "SPA_KNOCK_KEY";

/// A key and its source.
pub(in crate::client) struct Key {
    /// The content of the key file.
    pub(in crate::client) file: KeyFile,
    /// Its source.
    pub(in crate::client) origin: Origin,
}

/// The source of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) enum Origin {
    /// This file.
    File(PathBuf),
    /// Standard input.
    StandardInput,
    /// `$SPA_KNOCK_KEY`.
    Environment,
    /// The output of this program.
    Command(String),
}

/// The key in a profile.
pub(in crate::client) enum FromProfile {
    /// This file.
    File(PathBuf),
    /// The output of this program with these arguments.
    Command(Vec<String>),
}

impl Key {
    /// The key for knocking at `server`, whose `id` can be another name: `given` on the command line, else in the
    /// environment, else `profiled`, else in the folder of keys, else the root key in the home folder.
    pub(in crate::client) fn for_server(
        given: Option<&Path>,
        profiled: Option<FromProfile>,
        server: &str,
        id: &str,
    ) -> Result<Self, ClientError> {
        match (Self::explicit(given)?, profiled) {
            (Some(key), _) => Ok(key),
            (None, Some(FromProfile::File(path))) => Self::from_file(path),
            (None, Some(FromProfile::Command(command))) => Self::from_command(&command),
            (None, None) => Self::in_home(server, id),
        }
    }

    /// The key for a command without a server, `given` on the command line, else in the environment, else the root key in
    /// the home folder.
    pub(in crate::client) fn for_command(given: Option<&Path>) -> Result<Self, ClientError> {
        match Self::explicit(given)? {
            Some(key) => Ok(key),
            None => Self::first_of(&[common()]),
        }
    }

    /// The server of a pair key.
    pub(in crate::client) const fn server(&self) -> Option<&ServerId> {
        match &self.file.holder {
            KeyOwner::Pair { server, .. } => Some(server),
            KeyOwner::Root(_) => None,
        }
    }

    /// `pair` or `root`.
    pub(in crate::client) const fn kind(&self) -> &'static str {
        match &self.file.holder {
            KeyOwner::Pair { .. } => "pair",
            KeyOwner::Root(_) => "root",
        }
    }

    /// The key that is given on the command line or in the environment, if one is. Standard input can be read only once.
    pub(in crate::client) fn explicit(given: Option<&Path>) -> Result<Option<Self>, ClientError> {
        match given {
            Some(path) if path.as_os_str() == OsStr::new("-") => {
                let text = files::read_secret_from_stdin()?;
                Self::from_text(&text, Origin::StandardInput).map(Some)
            }
            // On Windows, no shell has replaced `~`.
            Some(path) if cfg!(windows) => Self::from_file(env::expanded(path)).map(Some),
            Some(path) => Self::from_file(path.to_owned()).map(Some),
            None => env::text(VARIABLE)
                .map(Zeroizing::new)
                .map(|text| {
                    Self::from_text(&text, Origin::Environment).map_err(|failure| {
                        match text.trim().lines().count() {
                            1 if !KeyFile::is_token(&text) => failure.hint(format!(
                                "set ${VARIABLE} to a token, or to the text of the key file with its line breaks; a path is not accepted"
                            )),
                            _ => failure,
                        }
                    })
                })
                .transpose(),
        }
    }

    /// The key file named after the server or its id, else one whose server or address matches, else the root key.
    fn in_home(server: &str, id: &str) -> Result<Self, ClientError> {
        let mut by_name = [server, id].into_iter().filter_map(named);
        if let Some(path) = by_name.find(|path| files::exists(path)) {
            return Self::from_file(path);
        }
        let folder = KeyFolder::read();
        match folder.for_server(id).as_slice() {
            [] => {}
            [path] => return Self::from_file((*path).clone()),
            several => {
                let names: Vec<_> = several.iter().map(|path| key_name(path)).collect();
                return Err(ClientError::new(
                    ExitCause::Files,
                    format!("{server}: several keys match: {}", names.join(", ")),
                )
                .hint("use one of these names as SERVER, or select a key file with --key"));
            }
        }
        Self::first_of(&[named(server), common()]).map_err(|failure| match folder.suggestion(server) {
            Some(hint) if !has_root_key() => failure.hint(hint),
            _ => failure,
        })
    }

    fn first_of(paths: &[Option<PathBuf>]) -> Result<Self, ClientError> {
        let paths: Vec<_> = paths.iter().flatten().collect();
        for path in &paths {
            if files::exists(path) {
                return Self::from_file((*path).clone());
            }
        }
        let missing: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        Err(ClientError::new(
            ExitCause::Files,
            format!(
                "no key: neither --key nor ${VARIABLE} is given, and there is no {}",
                missing.join(" or ")
            ),
        )
        .hint("create one with `spa-knock keygen -o ~/.knock.key`, or with `spa-knockd client add NAME` on the server"))
    }

    fn from_file(path: PathBuf) -> Result<Self, ClientError> {
        let text = files::read_secret(&path).map_err(|error| {
            // Others may read a public key, so its mode is not what is wrong.
            if files::read_exposed_secret(&path).is_ok_and(|text| public_key_file::is_key(&text)) {
                return ssh_key_instead(&Origin::File(path.clone()));
            }
            // The error may be about the folder's permissions; then it contains the folder's path.
            let object = if Path::new(&error.path) == path { "key file " } else { "directory " };
            let failure =
                ClientError::new(ExitCause::Files, format!("{object}{}: {}", error.path, error.reason));
            match error.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        Self::parse(&text, Origin::File(path))
    }

    fn from_command(command: &[String]) -> Result<Self, ClientError> {
        let text = secret_command::output_of(command).map_err(|error| {
            ClientError::new(ExitCause::Files, format!("key-command {error}"))
                .hint("run it in a shell: it must print a token or the text of a key file on standard output")
        })?;
        // Only the program's name: arguments may be private.
        Self::from_text(&text, Origin::Command(command.first().cloned().unwrap_or_default()))
    }

    /// Reads a token or the text of a key file, from where there is no file.
    fn from_text(text: &str, origin: Origin) -> Result<Self, ClientError> {
        if !KeyFile::is_token(text) {
            return Self::parse(text, origin);
        }
        match KeyFile::from_token(text) {
            Ok(file) => Ok(Self { file, origin }),
            Err(error) => Err(ClientError::new(ExitCause::Files, format!("{origin}: {error}"))
                .hint("copy the token again, from the first character to the last")),
        }
    }

    fn parse(text: &str, origin: Origin) -> Result<Self, ClientError> {
        match KeyFile::parse(text) {
            Ok(file) => Ok(Self { file, origin }),
            Err(_) if public_key_file::is_private(text) || public_key_file::is_key(text) => {
                Err(ssh_key_instead(&origin))
            }
            Err(error) => Err(ClientError::new(ExitCause::Files, format!("{origin}: {error}"))),
        }
    }
}

/// An SSH key is where the key of this program must be.
fn ssh_key_instead(origin: &Origin) -> ClientError {
    let file = match origin {
        Origin::File(path) => path.display().to_string(),
        _ => "FILE.pub".to_owned(),
    };
    ClientError::new(ExitCause::Files, format!("{origin}: is an SSH key, not a key of spa-knock")).hint(format!(
        "use the key file that the server's administrator gave you; to sign knocks with an SSH key as well, use --sign {file}"
    ))
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

/// The usable keys in `~/.config/spa-knock`.
struct KeyFolder(Vec<(PathBuf, KeyFile)>);

impl KeyFolder {
    fn read() -> Self {
        let key = |path: PathBuf| {
            let text = files::read_secret(&path).ok()?;
            KeyFile::parse(&text).ok().map(|file| (path, file))
        };
        Self(key_files().into_iter().filter_map(key).collect())
    }

    /// The files of the keys for this server, by its id or its address.
    fn for_server(&self, typed: &str) -> Vec<&PathBuf> {
        let id = ServerId::from_typed(typed).ok();
        let for_it = |file: &KeyFile| match &file.holder {
            KeyOwner::Pair { server, .. } => {
                id.as_ref() == Some(server)
                    || file.address.as_deref().is_some_and(|address| is_same_host(address, typed))
            }
            KeyOwner::Root(_) => false,
        };
        self.0.iter().filter(|(_, file)| for_it(file)).map(|(path, _)| path).collect()
    }

    /// A hint what to type instead, if there are keys for other servers.
    fn suggestion(&self, typed: &str) -> Option<String> {
        let names: Vec<_> = self.0.iter().map(|(path, _)| key_name(path)).collect();
        let ((path, file), name) = (self.0.first()?, names.first()?);
        let key_file = if names.len() == 1 { path.display().to_string() } else { "its key file".to_owned() };
        let address = match file.address {
            Some(_) if names.len() == 1 => String::new(),
            _ => format!(", and add `address: {typed}` to {key_file} if the server has that address"),
        };
        Some(format!(
            "use a server that you have a key for ({}), e.g. `spa-knock {name} open-ssh`{address}",
            names.join(", ")
        ))
    }
}

/// The user's folder of keys and profiles, `~/.config/spa-knock`.
pub(in crate::client) fn config_folder() -> Option<PathBuf> {
    env::config_home().map(|home| home.join("spa-knock"))
}

/// The key files in that folder, usable or not.
pub(in crate::client) fn key_files() -> Vec<PathBuf> {
    let mut paths = config_folder().and_then(|folder| files::list(&folder).ok()).unwrap_or_default();
    paths.retain(|path| path.extension() == Some(OsStr::new("key")));
    paths
}

/// The name of a key file without its extension.
pub(in crate::client) fn key_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether two texts are the same address or the same host name.
fn is_same_host(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => canonical(one) == canonical(other),
        (Err(_), Err(_)) => {
            let name = |text: &str| text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
            name(one) == name(other)
        }
        _ => false,
    }
}

/// `~/.config/spa-knock/SERVER.key`.
pub(in crate::client) fn named(server: &str) -> Option<PathBuf> {
    // A name with a separator would lead out of the folder.
    let is_file_name = !server.contains(['/', '\\', '\0']);
    // In a file name of Windows, a colon follows a drive, or precedes a stream.
    let name = if cfg!(windows) { server.replace(':', "_") } else { server.to_owned() };
    is_file_name.then(config_folder).flatten().map(|folder| folder.join(format!("{name}.key")))
}

/// Whether there is a `~/.knock.key`.
pub(in crate::client) fn has_root_key() -> bool {
    common().is_some_and(|path| files::exists(&path))
}

/// `~/.knock.key`.
fn common() -> Option<PathBuf> {
    env::home().map(|home| home.join(".knock.key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ssh_key_in_place_of_a_key_is_recognized() {
        let scratch = tempfile::tempdir().unwrap();
        for (text, mode) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n", files::FileMode::Private),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 user@host\n", files::FileMode::Private),
            ("sk-ssh-ed25519@openssh.com AAAA a: b\n", files::FileMode::Public),
        ] {
            let path = scratch.path().join(text.len().to_string());
            files::create_new(&path, mode, text.as_bytes()).unwrap();
            let failure = Key::from_file(path.clone()).err().unwrap();
            let path = path.display();
            assert_eq!(failure.reason(), format!("key file {path}: is an SSH key, not a key of spa-knock"));
            assert!(failure.advice().ends_with(&format!("use --sign {path}")), "{failure}");
        }
    }
}
