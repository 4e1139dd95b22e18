//! In a build without support for fleets, no client is one of a fleet.

use super::client_files::ClientFiles;
use crate::admin::WITHOUT_FLEET;
use crate::config::ServerConfig;
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

/// Whether this server is the member of a fleet with a store.
pub(super) const fn is_member(_: &ServerConfig) -> bool {
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

    pub(super) fn files_of(&self, _: &ClientName) -> ClientFiles {
        match *self {}
    }

    pub(super) fn add(&self, _: Vec<FleetClient<'_>>) -> Result<(), AdminError> {
        match *self {}
    }

    pub(super) fn wait_for(&self, _: &ServerConfig, _: &[&ClientName]) {
        match *self {}
    }
}
