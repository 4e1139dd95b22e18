//! The lock of the gate. There is one gate for a network namespace: of two daemons there each would undo the other's.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::console::AdminError;
use crate::os::files::{self, FileMode};
use crate::os::host;

/// Where the locks of gates lie, one for each network namespace.
const GATES: &str = "/run/spa-knock";

/// So often a taken lock is looked at again.
const LOOKS: u32 = 10;
/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Takes the gate for as long as the returned handle lives; nothing where no lock can be taken. `hint` is what to do
/// where another daemon has it.
///
/// # Errors
/// When another daemon has it.
pub(crate) fn lock_gate(hint: &str) -> Result<Option<File>, AdminError> {
    match look_again(try_lock, |lock| matches!(lock, Some(None))) {
        Some(Some(lock)) => Ok(Some(lock)),
        Some(None) => Err(AdminError::run(format_args!(
            "the gate of this network namespace: another spa-knockd has it\nhint: {hint}"
        ))),
        None => {
            log::warn!("{GATES}: no lock can be taken there; take care that no second spa-knockd runs");
            Ok(None)
        }
    }
}

/// Whether a daemon has the gate, whatever its config; a command that closes it has it for a moment.
pub(crate) fn is_taken() -> bool {
    matches!(try_lock(), Some(None))
}

/// Looks at a lock, and again for a second while it is taken: a command has it for a moment, and one that looks for a
/// daemon for an instant.
pub(crate) fn look_again<T>(mut look: impl FnMut() -> T, is_taken: impl Fn(&T) -> bool) -> T {
    let mut seen = look();
    for _ in 0..LOOKS {
        if !is_taken(&seen) {
            break;
        }
        std::thread::sleep(BETWEEN_LOOKS);
        seen = look();
    }
    seen
}

/// The lock, unless another process has it; nothing where none can be taken.
fn try_lock() -> Option<Option<File>> {
    let (folder, namespace) = (Path::new(GATES), host::network_namespace()?);
    files::create_folder(folder, FileMode::Public).ok()?;
    files::lock(&folder.join(format!("gate-{namespace}.lock"))).ok()
}
