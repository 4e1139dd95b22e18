//! The priority of this process.

use std::io;

/// How much lower than usual; 19 would be the lowest.
const NICENESS: i32 = 10;

/// Lowers the priority, permanently for a process without privileges: others get the processor first.
///
/// # Errors
/// When the system refuses.
pub(super) fn lower() -> io::Result<()> {
    rustix::process::nice(NICENESS)?;
    Ok(())
}
