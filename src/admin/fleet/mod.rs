//! `spa-knockd fleet …`: sets up a fleet in its store, joins it, and shows it; and what `client --fleet` needs of it.

mod accept_store;
mod config_section;
mod init;
mod join;
mod secret_input;
mod setup_files;
mod show;

use std::path::Path;

use crate::admin::args::FleetCommand;
use crate::admin::clients::FleetClients;
use crate::admin::facts::DaemonFacts;
use crate::config;
use crate::console::{AdminError, counted, notice};

/// Runs a command for fleets.
///
/// # Errors
/// If it fails; its message states what has changed.
pub(crate) fn run(path: &Path, command: FleetCommand) -> Result<(), AdminError> {
    match command {
        FleetCommand::Init(args) => init::init(path, &args),
        FleetCommand::Join(args) => join::join(path, &args),
        FleetCommand::Status { json } => show::status(path, json),
        FleetCommand::Members { json } => show::members(path, json),
        FleetCommand::AcceptStore { yes } => accept_store::accept_store(path, yes),
    }
}

/// Revokes a client of the fleet, by name or fingerprint. A config with errors does not prevent it, if the daemon has run
/// with a valid one.
///
/// # Errors
/// If this server is not a member, there is no such client, or the store does not answer or rejects it.
pub(crate) fn revoke_client(path: &Path, facts: &DaemonFacts, wanted: &str) -> Result<(), AdminError> {
    let config = match &facts.plan {
        Some(plan) => plan.config.clone(),
        None => config::load_main(path)?,
    };
    let clients = FleetClients::required(&config)?;
    let (name, grants) = clients.revoke(&config, wanted)?;
    notice(format_args!(
        "client {name}: revoked on all members; {} ended; established connections stay open",
        counted(grants, "grant")
    ));
    clients.wait_for(&config, &[&name]);
    Ok(())
}
