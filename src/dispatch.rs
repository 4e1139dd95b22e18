//! The daemon: startup, its two processes, and the commands for its admin.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub use crate::config::client_keys::{LoadedClient, load_clients};

use clap::CommandFactory as _;

use crate::manual;

use crate::admin::args::{ClientCommand, Command, Options, StateCommand};
use crate::console::{self, Failure};
use crate::{admin, daemon, gate, legacy, state, watcher};

/// Runs the command line of `spa-knockd`.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = crate::os::env::args();
    // Before the other options are looked at: its own have the same letters.
    if let Some(words) = words_for_knockd(&arguments) {
        return legacy::daemon::main(words);
    }
    match admin::args::parse(&arguments) {
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
        Command::Run => daemon::startup::run(&config),
        Command::Reload(place) => exit(admin::notify::reload(&place.facts(&config))),
        Command::Watch => watcher::native::main(),
        Command::WatchKnocks => legacy::daemon::watch(),
        Command::FollowLog { file } => watcher::log_follower::main(file.as_deref()),
        Command::Check { json } => admin::check::check(&config, json),
        Command::Init { id, address } => exit(admin::init::init(&config, id, address.as_deref())),
        Command::Client(ClientCommand::Add(add)) => exit(admin::clients::add(&config, &add)),
        Command::Client(ClientCommand::List { json }) => exit(admin::clients::list(&config, json)),
        Command::Client(ClientCommand::Show { name, json }) => {
            exit(admin::clients::show(&config, &name, json))
        }
        Command::Client(ClientCommand::Set(set)) => exit(admin::clients::set(&config, &set)),
        Command::Client(ClientCommand::Rotate(rotate)) => {
            exit(admin::clients::rotate::rotate(&config, &rotate))
        }
        Command::Client(ClientCommand::Revoke { client, place }) => {
            exit(admin::clients::revoke(&config, &place.facts(&config), &client))
        }
        Command::State(StateCommand::Reset { forget }) => exit(state::reset(&config, forget)),
        Command::RestoreGate { state_dir } => exit(gate::boot::restore(&config, state_dir.as_deref())),
        Command::Gate { state, confirm, by, place } => {
            exit(admin::gate::gate(&place.facts(&config), state, confirm, by))
        }
        Command::Grants { json, place } => exit(admin::grants::list(&place.facts(&config), json)),
        Command::LetIn(asked) => exit(admin::let_in::let_in(&asked.place.facts(&config), &asked)),
        Command::Migrate { file, id } => exit(legacy::migrate::migrate(&file, id)),
        Command::Status { json, watch, prometheus, place } => {
            let form = match (json, prometheus) {
                (true, _) => admin::status::show::Form::Json,
                (false, true) => admin::status::show::Form::Exposition,
                (false, false) => admin::status::show::Form::Text,
            };
            exit(admin::status::show::show(&place.facts(&config), form, watch))
        }
        Command::Explain(asked) => exit(admin::explain::explain(&config, &asked)),
        Command::Revoke { grant, place, .. } => exit(admin::grants::revoke(&place.facts(&config), grant)),
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
