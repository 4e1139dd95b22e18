//! The watcher: the unprivileged process that reads packets. Data from unauthenticated senders is parsed here, in
//! `packet` and in `auth/watcher`, and nowhere else.

pub(crate) mod flood;
pub(crate) mod log_follower;
mod native;
pub(crate) mod shell;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::os::{env, log};

/// The program `spa-knock-watcher`.
#[must_use]
pub fn main() -> ExitCode {
    start("spa-knock-watcher", native::main)
}

/// Runs a watcher's program: as a watcher, or as a log follower for a watcher of the same program.
pub(crate) fn start(name: &'static str, watch: impl FnOnce() -> ExitCode) -> ExitCode {
    let arguments: Vec<OsString> = env::args();
    match arguments.get(1..).unwrap_or_default() {
        [] => watch(),
        [first, file @ ..] if first == log_follower::ARGUMENT => {
            log_follower::main(file.first().map(Path::new))
        }
        _ => {
            log::start(name);
            ::log::error!("must be started by spa-knockd");
            ExitCode::from(2)
        }
    }
}
