//! The client: its command line, knocking, waiting for the answer, keys.

use std::process::ExitCode;

/// Runs the command line of `spa-knock`.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
