//! Starts the part of `spa-knockd` that the command line asks for: daemon, legacy daemon or administrator's command.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub use crate::config::client_keys::{LoadedClient, load_clients};

use clap::CommandFactory as _;
use spa_knock_core::crypto::KeyFile;
use spa_knock_core::knock::ServerId;

use crate::{completion, manual};

use crate::admin::args::{AdminCommand, ClientCommand, DaemonArgs, FleetCommand, StateCommand};
use crate::admin::facts::DaemonFacts;
use crate::console::{self, AdminError};
#[cfg(feature = "fleet")]
use crate::fleet::admin::join_line::JoinLine;
use crate::{admin, daemon, gate, state};

/// Runs the command line of `spa-knockd`.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = crate::os::env::args();
    // Before clap sees the options: knockd's own have the same letters.
    if let Some(arguments) = arguments_for(&arguments, "knockd") {
        return legacy(arguments);
    }
    if let Some(arguments) = arguments_for(&arguments, "fwknopd") {
        return fwknopd(arguments);
    }
    completion::respond_to_shell(DaemonArgs::command);
    if arguments.iter().any(|argument| argument.to_str().is_some_and(KeyFile::is_token_word)) {
        // Errors would print it.
        #[cfg(feature = "fleet")]
        if arguments.iter().any(|argument| argument.to_str().is_some_and(JoinLine::is_line)) {
            let reason = "an argument is a join line, which is a secret; it was not used\nhint: run spa-knockd fleet join, and paste it there; it is in your shell's history now";
            return AdminError::usage(reason).exit();
        }
        let reason = "an argument is a token, which contains a key; it was not used\nhint: spa-knock import, on the client, saves it";
        return AdminError::usage(reason).exit();
    }
    match admin::args::parse(&arguments) {
        Ok(options) => dispatch(options),
        Err(exit) => exit,
    }
}

fn dispatch(options: DaemonArgs) -> ExitCode {
    let config = crate::os::env::absolute(&options.config);
    if config != Path::new(admin::init::DEFAULT_CONFIG) {
        console::name_config(&config);
    }
    if !options.command.is_daemon() {
        trust_daemon_user(&config);
    }
    match options.command {
        AdminCommand::Run => daemon::startup::run(&config),
        AdminCommand::Reload(place) => exit(admin::notify::reload(&place.quiet_facts(&config))),
        AdminCommand::Check { policy: true, .. } => exit(admin::check::print_policy(&config)),
        AdminCommand::Check { json, against, .. } => admin::check::check(&config, json, against.as_deref()),
        AdminCommand::Init { id, address } => exit(admin::init::init(&config, id, address.as_deref())),
        AdminCommand::Client(ClientCommand::Add(add)) => exit(admin::clients::add(&config, &add)),
        AdminCommand::Client(ClientCommand::List { json }) => exit(admin::clients::list(&config, json)),
        AdminCommand::Client(ClientCommand::Show { name, json }) => {
            exit(admin::clients::show(&config, &name, json))
        }
        AdminCommand::Client(ClientCommand::Set(set)) => exit(admin::clients::set(&config, &set)),
        AdminCommand::Client(ClientCommand::Rotate(rotate)) => {
            exit(admin::clients::rotate::rotate(&config, &rotate))
        }
        AdminCommand::Client(ClientCommand::Revoke { client, fleet: true, place }) => {
            exit(revoke_in_fleet(&config, &place.facts(&config), &client))
        }
        AdminCommand::Client(ClientCommand::Revoke { client, place, .. }) => {
            exit(admin::clients::revoke(&config, &place.facts(&config), &client))
        }
        AdminCommand::Fleet(command) => exit(fleet(&config, command)),
        AdminCommand::State(StateCommand::Reset { forget }) => {
            exit(state::reset(&config, forget).and_then(|()| reset_fwknop(&config, forget)))
        }
        AdminCommand::Takeover(place) => {
            let reset_fwknop = |config: &Path| reset_fwknop(config, false);
            exit(admin::takeover::take_over(&config, &place.facts(&config), reset_fwknop))
        }
        AdminCommand::RestoreGate { state_dir } => exit(gate::boot::restore(&config, state_dir.as_deref())),
        AdminCommand::Gate { state, confirm, by, place } => {
            exit(admin::gate::gate(&place.facts(&config), state, confirm, by))
        }
        AdminCommand::Grants { json, place } => exit(admin::grants::list(&place.facts(&config), json)),
        AdminCommand::LetIn(args) => exit(admin::let_in::let_in(&args.place.facts(&config), &args)),
        AdminCommand::Migrate { file, id } => exit(migrate(&file, id)),
        AdminCommand::Status { json, watch, prometheus, place } => {
            let form = match (json, prometheus) {
                (true, _) => admin::status::show::Form::Json,
                (false, true) => admin::status::show::Form::Exposition,
                (false, false) => admin::status::show::Form::Text,
            };
            exit(admin::status::show::show(&place.facts(&config), form, watch))
        }
        AdminCommand::Explain(args) => exit(admin::explain::explain(&config, &args)),
        AdminCommand::Revoke { grant, place, .. } => {
            exit(admin::grants::revoke(&place.facts(&config), grant))
        }
        AdminCommand::Completions { shell } => {
            exit(console::print(&completion::script(&DaemonArgs::command(), shell)))
        }
        AdminCommand::Man => {
            exit(console::print(&manual::page(DaemonArgs::command(), manual::Section::Administration)))
        }
        // As the first argument, both are handled above.
        AdminCommand::Knockd { .. } => {
            let reason = "knockd: its options must follow it\nhint: spa-knockd knockd -c /etc/knockd.conf";
            AdminError::usage(reason).exit()
        }
        AdminCommand::Fwknopd { .. } => {
            let reason =
                "fwknopd: its options must follow it\nhint: spa-knockd fwknopd -c /etc/fwknop/fwknopd.conf";
            AdminError::usage(reason).exit()
        }
    }
}

/// Makes commands run by root accept the files of a daemon that runs as a user of its own, and create files that this
/// user can read.
fn trust_daemon_user(config: &Path) {
    let Some(folder) = config.parent() else { return };
    let user =
        crate::config::load(config).map_or_else(|_| crate::config::USER.to_owned(), |config| config.user);
    crate::os::files::trust_daemon_user(&user, folder);
}

fn exit(result: Result<(), AdminError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

#[cfg(feature = "legacy")]
fn legacy(arguments: &[OsString]) -> ExitCode {
    crate::legacy::daemon::main(arguments)
}

#[cfg(not(feature = "legacy"))]
fn legacy(_: &[OsString]) -> ExitCode {
    AdminError::usage(WITHOUT_LEGACY).exit()
}

/// Translates the config of the other program whose format the file has.
fn migrate(file: &Path, id: Option<ServerId>) -> Result<(), AdminError> {
    // It can contain keys, so the text must not stay in memory. Errors are reported when it is read again.
    let text = crate::os::files::read_exposed_secret(file).unwrap_or_default();
    if is_access_conf(&text) { migrate_fwknop(file, id) } else { migrate_knockd(file, id) }
}

/// Whether the first line is one of fwknop's `access.conf`, such as `SOURCE ANY`. A `knockd.conf` begins with a section.
fn is_access_conf(text: &str) -> bool {
    let mut lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    let first = lines.next().and_then(|line| line.split_ascii_whitespace().next()).unwrap_or_default();
    let name = first.trim_end_matches(':');
    name.starts_with('%')
        || (!name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || b"_0123456789".contains(&byte)))
}

#[cfg(feature = "legacy")]
fn migrate_knockd(file: &Path, id: Option<ServerId>) -> Result<(), AdminError> {
    crate::legacy::migrate::migrate(file, id)
}

#[cfg(not(feature = "legacy"))]
fn migrate_knockd(_: &Path, _: Option<ServerId>) -> Result<(), AdminError> {
    Err(AdminError::usage(WITHOUT_LEGACY))
}

#[cfg(feature = "fwknop")]
fn fwknopd(arguments: &[OsString]) -> ExitCode {
    crate::legacy::fwknop::daemon::main(arguments)
}

#[cfg(not(feature = "fwknop"))]
fn fwknopd(_: &[OsString]) -> ExitCode {
    AdminError::usage(WITHOUT_FWKNOP).exit()
}

#[cfg(feature = "fwknop")]
fn migrate_fwknop(file: &Path, id: Option<ServerId>) -> Result<(), AdminError> {
    crate::legacy::fwknop::migrate::migrate(file, id)
}

#[cfg(not(feature = "fwknop"))]
fn migrate_fwknop(_: &Path, _: Option<ServerId>) -> Result<(), AdminError> {
    Err(AdminError::usage(WITHOUT_FWKNOP))
}

#[cfg(feature = "fwknop")]
fn reset_fwknop(config: &Path, forget: bool) -> Result<(), AdminError> {
    crate::legacy::embedded::reset_fwknop(config, forget)
}

#[cfg(not(feature = "fwknop"))]
fn reset_fwknop(_: &Path, _: bool) -> Result<(), AdminError> {
    Ok(())
}

#[cfg(feature = "fleet")]
fn fleet(config: &Path, command: FleetCommand) -> Result<(), AdminError> {
    admin::fleet::run(config, command)
}

#[cfg(not(feature = "fleet"))]
fn fleet(_: &Path, _: FleetCommand) -> Result<(), AdminError> {
    Err(AdminError::usage(admin::WITHOUT_FLEET))
}

#[cfg(feature = "fleet")]
fn revoke_in_fleet(config: &Path, facts: &DaemonFacts, client: &str) -> Result<(), AdminError> {
    admin::fleet::revoke_client(config, facts, client)
}

#[cfg(not(feature = "fleet"))]
fn revoke_in_fleet(_: &Path, _: &DaemonFacts, _: &str) -> Result<(), AdminError> {
    Err(AdminError::usage(admin::WITHOUT_FLEET))
}

#[cfg(not(feature = "fwknop"))]
const WITHOUT_FWKNOP: &str = "built without fwknop support\nhint: cargo build --features fwknop";

#[cfg(not(feature = "legacy"))]
const WITHOUT_LEGACY: &str = "built without legacy support\nhint: cargo build --features legacy";

/// The arguments of this legacy daemon, if the program runs through a link with its name or it is the first argument.
fn arguments_for<'a>(arguments: &'a [OsString], daemon: &str) -> Option<&'a [OsString]> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == daemon) {
        return Some(arguments);
    }
    arguments.get(1..).filter(|rest| rest.first().is_some_and(|first| first == daemon))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_shows_whether_a_file_is_fwknops_or_knockds() {
        for (text, is_fwknops) in [
            ("# a comment\n\nSOURCE ANY\n", true),
            ("SOURCE: ANY;\n", true),
            (" %include /etc/fwknop/access/a.conf\n", true),
            ("HMAC_KEY_BASE64 x\n", true),
            ("[options]\n  UseSyslog\n", false),
            ("; SOURCE ANY\n[openSSH]\n", false),
            ("UseSyslog\n", false),
            ("", false),
        ] {
            assert_eq!(is_access_conf(text), is_fwknops, "{text}");
        }
    }
}
