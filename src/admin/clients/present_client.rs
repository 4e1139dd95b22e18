//! A client that a command changes: defined in a file of this server, or in the store of its fleet.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::client_files::remove_keys;
use super::fleet_clients::{FleetClients, StoredEntry, check_of_server};
use super::key_output::readmit;
use super::{check_own_file, find};
use crate::admin::notify;
use crate::config::{self, ClientEntry, ConfigText, ServerConfig};
use crate::console::AdminError;
use crate::os::files::{self, FileMode};
use spa_knock_core::crypto::KeyFile;
use spa_knock_core::knock::ClientName;

/// A client with its definition, and where that is.
pub(super) struct PresentClient<'a> {
    path: &'a Path,
    config: &'a ServerConfig,
    name: &'a ClientName,
    /// What it is now.
    pub(super) entry: ClientEntry,
    /// Its definition as text.
    pub(super) text: String,
    fleet: Option<(FleetClients, StoredEntry)>,
}

impl<'a> PresentClient<'a> {
    /// Finds a client of this server, or with `is_of_fleet` one of its fleet. `change` is what the command does to it.
    ///
    /// # Errors
    /// If there is none, it is one of the other kind, or the config itself defines it.
    pub(super) fn find(
        path: &'a Path,
        config: &'a ServerConfig,
        name: &'a ClientName,
        is_of_fleet: bool,
        change: &str,
    ) -> Result<Self, AdminError> {
        if let Some(fleet) = FleetClients::if_asked(config, is_of_fleet)? {
            let (stored, entry, text) = fleet.find(config, name)?;
            return Ok(Self { path, config, name, entry, text, fleet: Some((fleet, stored)) });
        }
        let entry = find(config, name)?.clone();
        check_of_server(config, name, &entry)?;
        check_own_file(path, config, name, &entry, change)?;
        let text = files::read_text(&entry.defined_in)?;
        Ok(Self { path, config, name, entry, text, fleet: None })
    }

    /// Where its definition is, for messages.
    pub(super) fn place(&self) -> String {
        match self.fleet {
            Some(_) => format!("client {} in the fleet's store", self.name),
            None => self.entry.defined_in.display().to_string(),
        }
    }

    /// The client that another text of its definition would make; none if it would define another one.
    ///
    /// # Errors
    /// The problems of the text.
    pub(super) fn read_as(&self, text: &str) -> Result<Option<ClientEntry>, AdminError> {
        if let Some((fleet, _)) = &self.fleet {
            return fleet.read_definition(self.config, self.name, text).map(Some);
        }
        let new = ConfigText { file: self.entry.defined_in.clone(), text: text.to_owned() };
        Ok(config::load_with(self.path, &new)?.clients.remove(self.name))
    }

    /// The path of a key file with this name.
    pub(super) fn key_file(&self, name: &str) -> PathBuf {
        match &self.fleet {
            Some((fleet, _)) => fleet.keys_folder().join(name),
            None => self.config.keys_dir.join(name),
        }
    }

    /// Whether the name of a key file is in use.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        match &self.fleet {
            Some((_, stored)) => stored.has_file(path),
            None => files::exists(path),
        }
    }

    /// Whether its key files are on this server.
    pub(super) const fn has_own_files(&self) -> bool {
        self.fleet.is_none()
    }

    /// Makes a new key usable that was revoked before, or refuses it: a fleet never uses one again.
    ///
    /// # Errors
    /// If it is refused, or a file can't be written.
    pub(super) fn admit(&self, key: &KeyFile) -> Result<(), AdminError> {
        match &self.fleet {
            Some((fleet, _)) => fleet.check_not_revoked(key),
            None => readmit(self.config, key),
        }
    }

    /// Replaces the definition: the single step that makes the change valid. A client of the fleet also gets the text of
    /// its new key, and loses the keys in `dropped`.
    ///
    /// # Errors
    /// If it can't be written. Nothing has changed then.
    pub(super) fn replace(
        &self,
        text: &str,
        new_key: Option<(&Path, &Zeroizing<String>)>,
        dropped: &[PathBuf],
    ) -> Result<(), AdminError> {
        match &self.fleet {
            Some((fleet, stored)) => fleet.replace(self.name, stored, text, new_key, dropped),
            None => Ok(files::replace(&self.entry.defined_in, FileMode::Private, text.as_bytes())?),
        }
    }

    /// Removes keys that are no longer used, and makes the running daemon apply the change.
    ///
    /// # Errors
    /// If a daemon runs and does not load the change, or a file can't be removed.
    pub(super) fn apply(&self, dropped: &[PathBuf]) -> Result<(), AdminError> {
        if let Some((fleet, _)) = &self.fleet {
            fleet.wait_for(self.config, &[self.name]);
            return Ok(());
        }
        let removed = remove_keys(self.config, self.name, dropped.iter());
        notify::request_reload(self.config, &format!("client {}", self.name))?;
        removed
    }
}
