//! The watcher: the unprivileged process that reads packets. Bytes of unauthenticated senders are parsed here and in
//! `packet` and `auth/watcher`, and nowhere else.

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

/// What a watcher's program does: watches, or follows a log for another one of the same program.
pub(crate) fn start(name: &'static str, watch: impl FnOnce() -> ExitCode) -> ExitCode {
    let arguments: Vec<OsString> = env::args();
    match arguments.get(1..).unwrap_or_default() {
        [] => watch(),
        [word, file @ ..] if word == log_follower::ARGUMENT => {
            log_follower::main(file.first().map(Path::new))
        }
        _ => {
            log::start(name);
            ::log::error!("started by spa-knockd, not by hand");
            ExitCode::from(2)
        }
    }
}
