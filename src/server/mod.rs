//! The daemon: startup, its two processes, and the commands for its admin.

mod audit;
mod boot_gate;
mod check;
mod cli;
mod clients;
mod console;
mod control;
mod daemon;
mod deeds;
mod ears;
mod explain;
mod facts;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod gate_lock;
mod gatehouse;
mod grants;
mod init;
mod keys;
mod knockd;
mod last_good;
mod legacy;
mod let_in;
mod messages;
mod metrics;
mod migrate;
mod pace;
mod packet_log;
mod qr;
mod reload;
mod restart;
mod revoked;
mod rotation;
mod run;
mod standing;
mod state;
mod status;
mod takeover;
mod watch;
mod watcher_process;
mod wrap;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub use keys::{LoadedClient, load_clients};

use clap::CommandFactory as _;

use crate::manual;

use cli::{ClientCommand, Command, Options, StateCommand};
use console::Failure;

/// Runs the command line of `spa-knockd`.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = crate::os::env::args();
    // Before the other options are looked at: its own have the same letters.
    if let Some(words) = words_for_knockd(&arguments) {
        return knockd::main(words);
    }
    match cli::parse(&arguments) {
        Ok(options) => dispatch(options),
        Err(exit) => exit,
    }
}

fn dispatch(options: Options) -> ExitCode {
    let config = crate::os::env::absolute(&options.config);
    if !options.command.is_daemon() {
        trust_daemon_user(&config);
    }
    match options.command {
        Command::Run => run::run(&config),
        Command::Reload(place) => exit(reload::reload(&place.facts(&config))),
        Command::Watch => watch::main(),
        Command::WatchKnocks => knockd::watch(),
        Command::FollowLog { file } => packet_log::main(file.as_deref()),
        Command::Check { json } => check::check(&config, json),
        Command::Init { id, address } => exit(init::init(&config, id, address.as_deref())),
        Command::Client(ClientCommand::Add(add)) => exit(clients::add(&config, &add)),
        Command::Client(ClientCommand::List { json }) => exit(clients::list(&config, json)),
        Command::Client(ClientCommand::Show { name, json }) => exit(clients::show(&config, &name, json)),
        Command::Client(ClientCommand::Set(set)) => exit(clients::set(&config, &set)),
        Command::Client(ClientCommand::Rotate(rotate)) => exit(rotation::rotate(&config, &rotate)),
        Command::Client(ClientCommand::Revoke { client, place }) => {
            exit(clients::revoke(&config, &place.facts(&config), &client))
        }
        Command::State(StateCommand::Reset { forget }) => exit(state::reset(&config, forget)),
        Command::RestoreGate { state_dir } => exit(boot_gate::restore(&config, state_dir.as_deref())),
        Command::Gate { state, confirm, by, place } => {
            exit(gate::gate(&place.facts(&config), state, confirm, by))
        }
        Command::Grants { json, place } => exit(grants::list(&place.facts(&config), json)),
        Command::LetIn(asked) => exit(let_in::let_in(&asked.place.facts(&config), &asked)),
        Command::Migrate { file, id } => exit(migrate::migrate(&file, id)),
        Command::Status { json, watch, prometheus, place } => {
            let form = match (json, prometheus) {
                (true, _) => status::Form::Json,
                (false, true) => status::Form::Exposition,
                (false, false) => status::Form::Text,
            };
            exit(status::show(&place.facts(&config), form, watch))
        }
        Command::Explain(asked) => exit(explain::explain(&config, &asked)),
        Command::Revoke { grant, place, .. } => exit(grants::revoke(&place.facts(&config), grant)),
        Command::Completions { shell } => {
            exit(console::print(&manual::completions(Options::command(), shell)))
        }
        Command::Man => {
            exit(console::print(&manual::page(Options::command(), manual::Section::Administration)))
        }
        // As the first word it does not come here.
        Command::Knockd { .. } => {
            let reason = "knockd: its options stand behind it\nhint: spa-knockd knockd -c /etc/knockd.conf";
            Failure::usage(reason).exit()
        }
    }
}

/// Commands that root runs by hand accept the files of a daemon that runs as a user of its own, and leave it files that it
/// can read.
fn trust_daemon_user(config: &Path) {
    let Some(folder) = config.parent() else { return };
    let user =
        crate::config::load(config).map_or_else(|_| crate::config::USER.to_owned(), |config| config.user);
    crate::os::files::trust_daemon_user(&user, folder);
}

fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

/// Through a link of this name, or with it as its first word, the program is the legacy daemon.
fn words_for_knockd(arguments: &[OsString]) -> Option<&[OsString]> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "knockd") {
        return Some(arguments);
    }
    arguments.get(1..).filter(|words| words.first().is_some_and(|word| word == "knockd"))
}
