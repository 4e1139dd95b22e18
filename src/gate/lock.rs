//! The lock of the gate. A network namespace has one gate: two daemons would undo each other's changes.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::console::AdminError;
use crate::os::files::{self, FileMode};
use crate::os::host;

/// The directory of the lock files, one per network namespace.
const GATES: &str = "/run/spa-knock";

/// How often a locked gate is tried again.
const RETRIES: u32 = 10;
/// Interval between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Locks the gate while the returned handle lives; `None` if locking is impossible. `hint` is the advice if another
/// daemon has the lock.
///
/// # Errors
/// When another daemon has the lock.
pub(crate) fn lock_gate(hint: &str) -> Result<Option<File>, AdminError> {
    match retry(try_lock, |lock| matches!(lock, Some(None))) {
        Some(Some(lock)) => Ok(Some(lock)),
        Some(None) => Err(AdminError::run(format_args!(
            "gate of this network namespace: locked by another spa-knockd\nhint: {hint}"
        ))),
        None => {
            log::warn!("{GATES}: cannot lock the gate; make sure that no second spa-knockd runs");
            Ok(None)
        }
    }
}

/// Whether a daemon has the lock, with any config. A command that closes the gate has it for a moment.
pub(crate) fn is_taken() -> bool {
    matches!(try_lock(), Some(None))
}

/// Tries a lock, and repeats that for up to a second while it is taken: other commands hold it only for a moment.
pub(crate) fn retry<T>(mut attempt: impl FnMut() -> T, is_taken: impl Fn(&T) -> bool) -> T {
    let mut result = attempt();
    for _ in 0..RETRIES {
        if !is_taken(&result) {
            break;
        }
        std::thread::sleep(RETRY_INTERVAL);
        result = attempt();
    }
    result
}

/// The lock; `Some(None)` if another process has it, `None` if locking is impossible.
fn try_lock() -> Option<Option<File>> {
    let (folder, namespace) = (Path::new(GATES), host::network_namespace()?);
    files::create_folder(folder, FileMode::Public).ok()?;
    files::lock(&folder.join(format!("gate-{namespace}.lock"))).ok()
}
