//! The daemon: startup, its two processes, and the commands for its admin.

use std::process::ExitCode;

/// Runs the command line of `spa-knockd`.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
