//! Replaces a damaged memory of accepted packets.

use std::path::Path;
use std::time::Duration;

use crate::console::{AdminError, notice, own_command};
use crate::os::clock;
use crate::state::{self, StateError};

/// Replaces the memory in `folder`. What was accepted remains refused, and so are packets that were made before a time that
/// is printed.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn reset_memory(folder: &Path, window: Duration, forget: bool) -> Result<(), AdminError> {
    let floor = state::reset_in(folder, window, forget).map_err(AdminError::run)?;
    notice(format_args!("packets of fwknop: accepting only those made after {}", clock::rfc3339(floor)));
    Ok(())
}

/// The error of a memory that cannot be used, with the command that replaces it.
pub(super) fn memory_error(error: StateError) -> AdminError {
    match error {
        StateError::Damaged(place, reason) => AdminError::run(format_args!(
            "packets of fwknop: replay state {place}: {reason}\n\
             hint: run {}, or start fwknopd once with --rotate-digest-cache (packets are refused for a while; \
             none is accepted twice)",
            own_command("state reset")
        )),
        other => AdminError::run(other),
    }
}
