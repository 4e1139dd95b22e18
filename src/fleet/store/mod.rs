//! The store process: talks to etcd for the keeper.

use std::process::ExitCode;

/// Runs the store process until the keeper closes its end of the channel.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
