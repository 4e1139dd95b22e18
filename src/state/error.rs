//! Why the daemon cannot use its state.

use crate::os::files::FileError;

/// Why there is no state to go on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file cannot be read or written.
    #[error("replay state: {0}")]
    File(#[from] FileError),
    /// It is not what was written.
    #[error(
        "replay state {0}: {1}\nhint: spa-knockd state reset (refuses for a while what was knocked of late; nothing is believed twice)"
    )]
    Damaged(String, &'static str),
    /// The use counts are not what was written.
    #[error(
        "use counts {0}: not as it was written\nhint: remove it; what clients with `uses` have used so far is then forgotten, so lower theirs first"
    )]
    Uses(String),
    /// The lease does not reach this far.
    #[error("replay state: the disk does not take a lease that reaches this knock's time")]
    Lease,
    /// The journal has grown to its bound and cannot be written anew.
    #[error("replay state: the journal is full and cannot be written anew")]
    Full,
    /// The system has no random numbers or no boot id.
    #[error("replay state: {0}")]
    System(&'static str),
}
