//! `spa-knockd knockd`: plain sequences as knockd has them, without its faults. One process sees packets and matches
//! them, the other runs commands and, where a door has `Open`, keeps the gate.

mod background;
mod book;
mod doors;
mod ears;
mod gate;
mod keeper;
mod leases;
mod messages;
mod names;
mod openings;
mod options;
mod quiet;
mod script;
mod settings;
mod sinks;
mod twins;
mod watch;
mod written;

use std::ffi::OsString;
use std::process::ExitCode;

use super::console::{Failure, tell};
use crate::os::signals::Signals;
use crate::os::{descriptors, env, log as os_log};
use background::Background;
use keeper::Keeper;
use settings::Settings;

pub(super) use book::Book;
pub(super) use doors::{Coming, Doors, Outcome};
pub(super) use ears::Post;
pub(super) use openings::{NotOpened, Openings, action};
pub(super) use watch::main as watch;
pub(super) use written::Written;

/// The name that stands in records for everybody who knocks by a plain sequence.
pub(super) const CLIENT: &str = "knockd";

/// Tells at a start what a plain sequence is worth.
pub(super) fn tell_danger(doors: usize) {
    if doors > 0 {
        log::warn!(
            "plain sequences can be sniffed and replayed by who sees them; `spa-knockd migrate` is a way out"
        );
    }
}

/// Runs the legacy daemon; the first of `words` is the name that it is called by.
#[must_use]
pub(super) fn main(words: &[OsString]) -> ExitCode {
    descriptors::close_inherited();
    os_log::start("knockd");
    let mut options = match options::parse(words) {
        Ok(options) => options,
        Err(code) => return code,
    };
    // Found again at a reload, wherever the daemon is then.
    for path in [&mut options.config, &mut options.state_dir] {
        *path = env::absolute(path);
    }
    let settings = match Settings::read(&options) {
        Ok(settings) => settings,
        Err(reason) => {
            tell(reason);
            return options::usage(ExitCode::FAILURE);
        }
    };
    if options.daemon && !Background::is_here() {
        return Background::start(words);
    }
    let background = options.daemon.then(Background::enter);
    os_log::start_thread();
    let started = Signals::listen()
        .map_err(|error| Failure::run(format_args!("signals: {error}")))
        .and_then(|signals| Keeper::start(settings, options).map(|keeper| (keeper, signals)));
    match started {
        Ok((mut keeper, signals)) => {
            if let Some(background) = background {
                keeper.write_pid_file();
                os_log::flush();
                background.ready();
            }
            keeper.run(signals)
        }
        Err(failure) => failure.exit(),
    }
}
