//! The file with the profiles: where it is, and when its problems prevent a knock.

use std::path::{Path, PathBuf};

use super::request::check_printable;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::sources::{FromProfile, Key, config_folder};
use crate::config::{Profile, ProfileError, Profiles};
use crate::os::{env, files};
use spa_knock_core::knock::ServerId;

/// The key that a knock at `server` uses.
pub(in crate::client) fn key_for(server: &str) -> Result<Key, ClientError> {
    check_printable("SERVER", server)?;
    let profiles = ProfileFile::read(None)?;
    let profile = profiles.of(server)?;
    if let Some(servers) = &profile.servers {
        return Err(ClientError::new(
            ExitCause::Usage,
            format!("{server}: is a group; each server has its own key"),
        )
        .hint(format!("name one of its servers: {}", servers.join(", "))));
    }
    let id = profile.id.as_ref().map_or(server, ServerId::as_str);
    Key::for_server(None, profiles.key(&profile), server, id)
}

/// The profiles, and the folder that their paths are relative to.
pub(in crate::client) struct ProfileFile {
    path: PathBuf,
    profiles: Profiles,
}

impl ProfileFile {
    /// Reads the file `given` on the command line, else the user's.
    pub(in crate::client) fn read(given: Option<&Path>) -> Result<Self, ClientError> {
        let default = || config_folder().map(|folder| folder.join("config.toml"));
        let Some(path) = given.map(Path::to_owned).or_else(default) else {
            return Ok(Self { path: PathBuf::new(), profiles: Profiles::default() });
        };
        let text = match files::read_own_text(&path) {
            Ok(text) => text,
            Err(error) if error.missing && given.is_none() => String::new(),
            // `--config /dev/null` means: no profile.
            Err(_) if path == Path::new("/dev/null") => String::new(),
            // No other errors are ignored: the profile sets the server, the key, and the program that prints the key.
            Err(error) => {
                let object = if Path::new(&error.path) == path { "profile " } else { "directory " };
                let failure = ClientError::from(error);
                return Err(failure.with_object(object));
            }
        };
        Ok(Self { path, profiles: Profiles::parse(&text) })
    }

    /// The profile of `server`, if the file has no problem. A problem in the profile of a server of a group is left to
    /// [`Self::of_member`].
    pub(in crate::client) fn of(&self, server: &str) -> Result<Profile, ClientError> {
        let profile = self.profiles.of(server);
        let mut members = profile.servers.clone().unwrap_or_default();
        members.retain(|member| member != server);
        self.check(&self.profiles.problems_except(&members))?;
        Ok(profile)
    }

    /// The profile of a server of a group, if that profile has no problem.
    pub(in crate::client) fn of_member(&self, server: &str) -> Result<Profile, ClientError> {
        self.check(&self.profiles.problems_of(server))?;
        Ok(self.profiles.of(server))
    }

    /// The key that a profile names, if it names one.
    pub(in crate::client) fn key(&self, profile: &Profile) -> Option<FromProfile> {
        match (&profile.key_command, &profile.key) {
            (Some(command), _) => Some(FromProfile::Command(command.clone())),
            (None, Some(path)) => Some(FromProfile::File(self.path(path))),
            (None, None) => None,
        }
    }

    /// Resolves a path in a profile: it begins with `~/`, is absolute, or is relative to the profile's folder.
    pub(in crate::client) fn path(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(env::expanded(path))
    }

    fn check(&self, problems: &[&ProfileError]) -> Result<(), ClientError> {
        if problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = problems.iter().map(|error| format!("{}:{error}", self.path.display())).collect();
        Err(ClientError::new(ExitCause::Files, lines.join("\n")))
    }
}
