//! `spa-knockd fleet …`: sets up a fleet in its store, joins it, and shows it; and what `client --fleet` needs of it.

mod config_section;
mod init;
mod join;
mod secret_input;
mod setup_files;

use std::path::Path;

use crate::admin::args::FleetCommand;
use crate::admin::facts::DaemonFacts;
use crate::console::AdminError;

/// Runs a command for fleets.
///
/// # Errors
/// If it fails; its message states what has changed.
pub(crate) fn run(path: &Path, command: FleetCommand) -> Result<(), AdminError> {
    match command {
        FleetCommand::Init(args) => init::init(path, &args),
        FleetCommand::Join(args) => join::join(path, &args),
        _ => Err(AdminError::run("not implemented")),
    }
}

/// Revokes a client of the fleet.
pub(crate) fn revoke_client(_: &Path, _: &DaemonFacts, _: &str) -> Result<(), AdminError> {
    Err(AdminError::run("not implemented"))
}
