//! In a build without support for fleets, no client is one of a fleet.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::client_files::ClientFiles;
use crate::admin::WITHOUT_FLEET;
use crate::config::{ClientEntry, ServerConfig};
use crate::console::AdminError;
use spa_knock_core::crypto::{KeyFile, OtpSeed};
use spa_knock_core::knock::ClientName;

/// There is none.
pub(super) enum FleetClients {}

/// A client that no fleet gets.
#[expect(dead_code, reason = "a build with support for fleets reads it")]
pub(super) struct FleetClient<'a> {
    pub(super) name: &'a ClientName,
    pub(super) definition: String,
    pub(super) key: &'a KeyFile,
    pub(super) otp: Option<&'a OtpSeed>,
    pub(super) is_counted: bool,
}

/// A client in the store of a fleet; there is none.
pub(super) enum StoredEntry {}

impl StoredEntry {
    pub(super) const fn has_file(&self, _: &Path) -> bool {
        match *self {}
    }
}

/// Every client is one of this server.
pub(super) const fn check_of_server(
    _: &ServerConfig,
    _: &ClientName,
    _: &ClientEntry,
) -> Result<(), AdminError> {
    Ok(())
}

/// Whether a client is one of the fleet.
pub(super) const fn is_of_fleet(_: &ServerConfig, _: &ClientEntry) -> bool {
    false
}

/// The uses of a client of the fleet.
pub(super) fn uses_text(_: &ServerConfig, _: &ClientName, _: u64) -> String {
    String::new()
}

/// Whether this server is the member of a fleet with a store.
pub(super) const fn is_member(_: &ServerConfig) -> bool {
    false
}

/// Whether this server's daemon has not run yet as a member.
pub(crate) const fn awaits_first_start(_: &ServerConfig) -> bool {
    false
}

impl FleetClients {
    /// None, unless the command line asks for it.
    ///
    /// # Errors
    /// If it does.
    pub(super) fn if_asked(_: &ServerConfig, is_asked: bool) -> Result<Option<Self>, AdminError> {
        if is_asked { Err(AdminError::usage(WITHOUT_FLEET)) } else { Ok(None) }
    }

    pub(super) fn check_not_revoked(&self, _: &KeyFile) -> Result<(), AdminError> {
        match *self {}
    }

    pub(super) fn files_of(&self, _: &ClientName) -> ClientFiles {
        match *self {}
    }

    pub(super) fn add(&self, _: Vec<FleetClient<'_>>) -> Result<(), AdminError> {
        match *self {}
    }

    pub(super) fn wait_for(&self, _: &ServerConfig, _: &[&ClientName]) {
        match *self {}
    }

    pub(super) fn find(
        &self,
        _: &ServerConfig,
        _: &ClientName,
    ) -> Result<(StoredEntry, ClientEntry, String), AdminError> {
        match *self {}
    }

    pub(super) fn read_definition(
        &self,
        _: &ServerConfig,
        _: &ClientName,
        _: &str,
    ) -> Result<ClientEntry, AdminError> {
        match *self {}
    }

    pub(super) fn keys_folder(&self) -> &Path {
        match *self {}
    }

    pub(super) fn replace(
        &self,
        _: &ClientName,
        _: &StoredEntry,
        _: &str,
        _: Option<(&Path, &Zeroizing<String>)>,
        _: &[PathBuf],
    ) -> Result<(), AdminError> {
        match *self {}
    }
}
