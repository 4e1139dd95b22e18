//! `spa-knockd knockd`: a replacement for knockd without its defects. The watcher process captures packets and matches
//! knock sequences; the keeper process runs commands and, if a door has `Open`, keeps the gate.

pub(super) mod args;
pub(super) mod commands;
pub(super) mod config_file;
pub(in crate::legacy) mod daemonize;
pub(super) mod event_loop;
pub(super) mod grant_orders;
pub(super) mod knock_log;
pub(super) mod log_sinks;
pub(super) mod reverse_dns;
pub(super) mod watcher_process;

pub(super) mod doors;
pub(super) mod gate;
pub(super) mod script;
pub(super) mod settings;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::console::{AdminError, notice};
use crate::os::process::fds;
use crate::os::process::signals::Signals;
use crate::os::{env, log as os_log};
use daemonize::Background;
use event_loop::LegacyDaemon;
use settings::Settings;

pub(crate) use config_file::KnockdConfig;
pub(crate) use doors::{DoorOutcome, Doors, NextDoors};
pub(crate) use grant_orders::{action, grant_order};
pub(crate) use knock_log::KnockLog;
pub(crate) use watcher_process::LegacyWatchConfig;

/// The client name in audit records.
pub(crate) const CLIENT: &str = crate::config::LEGACY_CLIENTS[0];

/// Warns at the start that knock sequences can be replayed.
pub(crate) fn warn_replayable(doors: usize) {
    if doors > 0 {
        log::warn!(
            "knock sequences can be replayed by anyone who observes them\n\
             hint: `spa-knockd migrate` prints a config that replaces them"
        );
    }
}

/// Runs the legacy daemon. The first of `args` is the name of the program.
#[must_use]
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    fds::close_inherited();
    os_log::start("knockd");
    let mut options = match args::parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    // A reload must find them again after a change of the working directory.
    for path in [&mut options.config, &mut options.state_dir] {
        *path = env::absolute(path);
    }
    let settings = match Settings::read(&options) {
        Ok(settings) => settings,
        Err(reason) => {
            notice(reason);
            return args::usage(ExitCode::FAILURE);
        }
    };
    if options.daemon && !Background::is_here() {
        return Background::start("knockd", args);
    }
    let background = options.daemon.then(Background::enter);
    os_log::start_thread();
    let started = Signals::listen()
        .map_err(|error| AdminError::run(format_args!("signals: {error}")))
        .and_then(|signals| LegacyDaemon::start(settings, options).map(|keeper| (keeper, signals)));
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
