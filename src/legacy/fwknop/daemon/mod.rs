//! `spa-knockd fwknopd`: a replacement for fwknopd, with its files as they are. The watcher process captures packets and
//! verifies their HMACs; the keeper process decrypts them, makes grants and runs commands.

mod accept_rules;
mod args;
mod dump;
mod event_loop;
mod gate;
mod process;
mod syslog;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::console::{AdminError, notice, print};
use crate::legacy::daemon::daemonize::Background;
use crate::legacy::fwknop::settings::FwknopConfig;
use crate::os::files;
use crate::os::process::fds;
use crate::os::process::signals::Signals;
use crate::os::process::spawn::run_to_end;
use crate::os::{env, log as os_log};
pub(crate) use accept_rules::has_only_accept_rule;
use args::FwknopdArgs;
use event_loop::FwknopDaemon;

/// The name of the program, also in log lines.
const NAME: &str = "fwknopd";

/// Runs the daemon, or the command that an option asks for. The first of `args` is the name of the program.
#[must_use]
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    fds::close_inherited();
    files::restrict_umask();
    os_log::start(NAME);
    let mut options = match args::parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    // A reload must find them again after a change of the working directory.
    options.config_file = env::absolute(&options.config_file);
    options.state_dir = env::absolute(&options.state_dir);
    options.access_file = options.access_file.map(|path| env::absolute(&path));
    options.pid_file = options.pid_file.map(|path| env::absolute(&path));
    match command(&options) {
        Some(Ok(code)) => code,
        Some(Err(failure)) => failure.exit(),
        None => run(options, args),
    }
}

/// Carries out the option that is not about a new daemon, if there is one.
fn command(options: &FwknopdArgs) -> Option<Result<ExitCode, AdminError>> {
    let done = |result: Result<(), AdminError>| result.map(|()| ExitCode::SUCCESS);
    Some(if options.dump_config || options.exit_parse_config {
        done(read(options).and_then(|config| {
            if options.dump_config {
                return print(&dump::dump(&config));
            }
            config.all_notices().iter().for_each(notice);
            Ok(())
        }))
    } else if options.status {
        process::status(options)
    } else if options.kill {
        done(process::stop(options))
    } else if options.restart {
        done(process::reload(options))
    } else if options.fw_list {
        done(gate::list_grants(&options.state_dir).and_then(|text| print(&text)))
    } else if options.fw_list_all {
        let listed = run_to_end("nft", &["list", "ruleset"], "", std::time::Duration::from_secs(10));
        done(listed.map_err(AdminError::run).and_then(|text| print(&text)))
    } else {
        return None;
    })
}

fn run(options: FwknopdArgs, args: &[OsString]) -> ExitCode {
    let config = match read(&options) {
        Ok(config) => config,
        Err(failure) => return failure.exit(),
    };
    if !options.foreground && !Background::is_here() {
        return Background::start(NAME, args);
    }
    let background = (!options.foreground).then(Background::enter);
    os_log::start_thread();
    let identity = config.server.identity.clone();
    let started = Signals::listen()
        .map_err(|error| AdminError::run(format_args!("signals: {error}")))
        .and_then(|signals| FwknopDaemon::start(options, config).map(|daemon| (daemon, signals)));
    match started {
        Ok((mut daemon, signals)) => {
            daemon.write_pid_file();
            if let Some(background) = background {
                os_log::flush();
                background.ready();
                if let Err(error) = syslog::redirect_log(&identity) {
                    return AdminError::run(format_args!("syslog: {error}")).exit();
                }
            }
            daemon.run(signals)
        }
        Err(failure) => failure.exit(),
    }
}

/// Reads both files, with the values that options replace.
fn read(options: &FwknopdArgs) -> Result<FwknopConfig, AdminError> {
    let mut more = String::new();
    for path in &options.override_config {
        more.push_str(&files::read_trusted_text(path)?);
        more.push('\n');
    }
    more.push_str(&options.overrides());
    Ok(FwknopConfig::read_both(Some(&options.config_file), &more, options.access_file.as_deref())?)
}
