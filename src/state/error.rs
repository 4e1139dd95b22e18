//! Errors of the state directory.

use crate::console::own_command;
use crate::os::files::FileError;

/// The reason why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file cannot be read or written.
    #[error("replay state: {0}")]
    File(#[from] FileError),
    /// A file of the replay state is damaged or missing.
    #[error(
        "replay state {0}: {1}\nhint: run {reset} (recent knocks are refused for a while; no knock is accepted twice)",
        reset = own_command("state reset")
    )]
    Damaged(String, &'static str),
    /// The file of use counts is damaged.
    #[error(
        "use counts {0}: damaged\nhint: lower `uses` of every client that has used some, then remove the file: this resets all use counts"
    )]
    Uses(String),
    /// The lease does not cover the knock's timestamp.
    #[error("replay state: the lease does not cover this knock's timestamp and cannot be extended")]
    Lease,
    /// The journal has reached its maximum size and cannot be rewritten.
    #[error("replay state: the journal is full and cannot be rewritten")]
    Full,
    /// The system has no random numbers or no boot id.
    #[error("replay state: {0}")]
    System(&'static str),
}
