//! `spa-knockd takeover`: this host replaces another one that has the same id and keys, for example as the new master of a
//! virtual address. What the other host has accepted is not in the replay memory of this one.

use std::path::Path;

use super::facts::DaemonFacts;
use crate::config;
use crate::console::{AdminError, notice};
use crate::control::words::unexpected;
use crate::control::{AskResult, Request, Response};
use crate::os::clock;
use crate::state;
use spa_knock_core::knock::Timestamp;

/// Raises every floor past the window: through the daemon if one runs, else on disk. `reset_fwknop` does the latter for
/// packets of fwknop.
///
/// # Errors
/// If it is not on disk. A copy of a knock that the other host has accepted may then be accepted here.
pub(crate) fn take_over(
    config: &Path,
    facts: &DaemonFacts,
    reset_fwknop: impl FnOnce(&Path) -> Result<(), AdminError>,
) -> Result<(), AdminError> {
    let floor = match facts.ask(&Request::TakeOver {})? {
        AskResult::Reply(Response::Floor { ms }) => Timestamp::from_millis(ms),
        AskResult::Reply(other) => return Err(unexpected(other)),
        AskResult::NoDaemon => match facts.silent_daemon() {
            Some(evidence) => {
                let hint = "run this command again when the daemon has started or stopped";
                return Err(AdminError::run(format_args!("daemon: {evidence}\nhint: {hint}")));
            }
            None => {
                let floor = state::take_over(&config::load(config)?)?;
                reset_fwknop(config)?;
                floor
            }
        },
    };
    notice(format_args!("takeover: accepting only knocks with a timestamp after {}", clock::rfc3339(floor)));
    Ok(())
}
