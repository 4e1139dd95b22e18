//! `spa-knockd fleet …`: sets up a fleet in its store, joins it, and shows it; and what `client --fleet` needs of it.

mod accept_store;
mod config_section;
mod earlier_state;
mod init;
mod join;
mod join_line;
mod secret_input;
mod setup_files;
mod show;

use std::path::Path;

use crate::admin::args::FleetCommand;
use crate::admin::clients::{FleetClients, RevocationFailure, refuse_here};
use crate::admin::facts::DaemonFacts;
use crate::config;
use crate::console::{AdminError, counted, notice, own_command};
use crate::control::status::{DaemonStatus, FleetState};
use crate::control::{AskResult, Request, Response};
use spa_knock_fleet::FleetName;

/// Runs a command for fleets.
///
/// # Errors
/// If it fails; its message states what has changed.
pub(crate) fn run(path: &Path, command: FleetCommand) -> Result<(), AdminError> {
    match command {
        FleetCommand::Init(args) => init::init(path, &args),
        FleetCommand::Join(args) => join::join(path, &args),
        FleetCommand::JoinLine => join_line::print_again(path),
        FleetCommand::Status { json } => show::status(path, json),
        FleetCommand::Members { json } => show::members(path, json),
        FleetCommand::AcceptStore { yes } => accept_store::accept_store(path, yes),
    }
}

/// Revokes a client of the fleet, by name or fingerprint. A config with errors does not prevent it, if the daemon has run
/// with a valid one.
///
/// # Errors
/// If this server is not a member, there is no such client, or the store does not answer or rejects it. In the last case,
/// this server refuses the client nevertheless.
pub(crate) fn revoke_client(path: &Path, facts: &DaemonFacts, wanted: &str) -> Result<(), AdminError> {
    let config = match &facts.plan {
        Some(plan) => plan.config.clone(),
        None => config::load_main(path)?,
    };
    let clients = FleetClients::required(&config)?;
    let (name, grants) = match clients.revoke(&config, wanted) {
        Ok(revoked) => revoked,
        Err(RevocationFailure::Unknown(failure)) => return Err(failure),
        Err(RevocationFailure::Store(failure)) => return Err(only_here(path, facts, wanted, &failure)),
    };
    notice(format_args!(
        "client {name}: revoked on all members; {} ended; established connections stay open",
        counted(grants, "grant")
    ));
    clients.wait_for(&config, &[&name]);
    Ok(())
}

/// The store could not be changed, so this server alone refuses the client.
fn only_here(path: &Path, facts: &DaemonFacts, wanted: &str, failure: &AdminError) -> AdminError {
    let failure = failure.text();
    let reason = failure.lines().next().unwrap_or_default();
    let done = match refuse_here(path, facts, wanted) {
        Ok(()) => format!("client {wanted}: refused on this server only"),
        Err(failure) => failure.text(),
    };
    AdminError::run(format_args!(
        "client {wanted}: not revoked in the fleet: {reason}\n{done}\nhint: on each other member: {}; when the store answers, here: {}",
        own_command(&format!("client revoke {wanted}")),
        own_command(&format!("client revoke {wanted} --fleet"))
    ))
}

/// The status of the daemon of this server, if one runs and it is a member of this fleet.
fn status_of_daemon(
    path: &Path,
    fleet: &FleetName,
) -> Result<Option<(DaemonStatus, FleetState)>, AdminError> {
    let facts = DaemonFacts::find_quietly(path, None);
    let AskResult::Reply(Response::Status { status }) = facts.ask(&Request::Status {})? else {
        return Ok(None);
    };
    let state = status.fleet.clone().filter(|state| state.name == fleet.as_str());
    Ok(state.map(|state| (*status, state)))
}
