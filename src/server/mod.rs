//! The daemon: startup, its two processes, and the commands for its admin.

mod audit;
mod daemon;
mod keys;
mod messages;
mod run;
mod watch;
mod watcher_process;

use std::process::ExitCode;

/// Runs the command line of `spa-knockd`.
#[must_use]
pub fn main() -> ExitCode {
    let args = crate::os::env::args();
    match args.get(1).and_then(|a| a.to_str()) {
        Some("watch") => watch::main(),
        _ => run::run(std::path::Path::new(args.get(3).unwrap())),
    }
}
