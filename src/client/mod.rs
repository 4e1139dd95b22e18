//! The client `spa-knock`: command line, keys, knocks and replies.

mod agent;
mod args;
mod connect;
mod fan_out;
mod knock;

mod completions;
mod doctor;
mod failure;
#[cfg_attr(not(feature = "fwknop"), path = "fwknop/absent.rs")]
mod fwknop;
mod keep;
mod keys;
#[cfg_attr(not(feature = "legacy"), path = "legacy/absent.rs")]
mod legacy;
mod panics;
mod places;
mod ports;
mod relay;
mod report;

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use args::{Cli, ClientSubcommand, KnockArgs};
use failure::{ClientError, ExitCause};
use knock::KnockSuccess;
use knock::request::ClientRequest;
use report::Reporter;

use crate::os::{env, files};
use crate::{completion, manual};
use spa_knock_core::crypto::KeyFile;
use spa_knock_core::knock::ReplyWanted;

/// Runs the command line of `spa-knock`.
#[must_use]
pub fn main() -> ExitCode {
    let args = env::args();
    if legacy::is_called(&args) {
        return legacy::main(&args);
    }
    completion::respond_to_shell(command_line);
    if has_misplaced_token(&args) {
        let failure = ClientError::new(
            ExitCause::Usage,
            "an argument is a token, which contains a key; it was not used",
        )
        .hint("save it with `spa-knock import`, which asks for it; shells and process lists show arguments");
        return Reporter::PLAIN.failure(&failure);
    }
    let cli = match parse(args.clone()) {
        Ok(cli) => cli,
        Err(error) => {
            // Also for `--help`, which is no error and has exit code 0.
            let _ = error.print();
            if let Some(hint) = keep::hints::hint(&args, &error).or_else(|| fwknop::hints::hint(&error)) {
                Reporter::PLAIN.hint(hint);
            }
            return u8::try_from(error.exit_code()).unwrap_or(2).into();
        }
    };
    let report = match &cli.command {
        Some(ClientSubcommand::Connect(args)) => Reporter::of(&args.common),
        Some(ClientSubcommand::Keep(args)) => Reporter::of(&args.common),
        _ => Reporter::new(&cli.knock),
    };
    let result = match cli.command {
        Some(command) => run(command),
        None => knock(cli.knock, &report).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|failure| report.failure(&failure))
}

/// The definition of the command line.
fn command_line() -> Command {
    places::named(Cli::command())
}

fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let matches = command_line().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command_line()))
}

/// Whether a token is where it would be printed by an error, as a name for example.
fn has_misplaced_token(args: &[OsString]) -> bool {
    let is_import = matches!(args, [_, command, _] if command == "import");
    !is_import && args.iter().skip(1).any(|arg| arg.to_str().is_some_and(KeyFile::is_token_word))
}

fn knock(args: KnockArgs, report: &Reporter) -> Result<(), ClientError> {
    let dry_run = args.dry_run;
    let request = ClientRequest::new(args)?;
    if dry_run {
        return print_dry_run(&request, report);
    }
    let (knocked, _) = knock_and_wait(&request, report)?;
    report.success(&knocked.text, &knocked.success);
    Ok(())
}

/// Knocks as requested, and waits until the port accepts connections, if requested. Also returns the address that accepts.
fn knock_and_wait(
    request: &ClientRequest,
    report: &Reporter,
) -> Result<(KnockSuccess, Option<IpAddr>), ClientError> {
    if let (ClientRequest::Several(several), Some(port)) = (request, request.wait()) {
        let (stream, knocked) = fan_out::connect(several, port, report)?;
        return Ok((knocked, stream.peer_addr().ok().map(|address| address.ip())));
    }
    let (knocked, mut again) = carry_out(request, report)?;
    let open = wait_for_port(request, &knocked, again.as_deref_mut(), report)?;
    Ok((knocked, open))
}

/// Waits until the port of a server accepts connections, if requested. Returns the address that accepts.
fn wait_for_port(
    request: &ClientRequest,
    knocked: &KnockSuccess,
    again: Option<&mut (dyn knock::wait::KnockAgain + '_)>,
    report: &Reporter,
) -> Result<Option<IpAddr>, ClientError> {
    let (Some(port), Some(patience)) = (request.wait(), request.patience()) else { return Ok(None) };
    let mut ports = knocked.servers.clone();
    ports.iter_mut().for_each(|server| server.set_port(port));
    report.detail(|| format!("{}: waiting for tcp port {port}", knock::listed(&ports)));
    let stream = knock::wait::for_connection(&ports, patience, again, report)?;
    Ok(stream.peer_addr().ok().map(|address| address.ip()))
}

fn print_dry_run(request: &ClientRequest, report: &Reporter) -> Result<(), ClientError> {
    match request {
        ClientRequest::Several(request) => fan_out::dry_run::print(request, report),
        ClientRequest::One(request) => match request.ports {
            None => knock::dry_run::print(request, report),
            Some(mode) => ports::knock::print_dry_run(request, mode, report),
        },
    }
}

/// Repeats a knock that gets no reply; none if the knock got its reply.
type KnockRepeater<'a> = Option<Box<dyn knock::wait::KnockAgain + 'a>>;

/// Knocks with a datagram or a port sequence, at one server or several, as requested.
fn carry_out<'a>(
    request: &'a ClientRequest,
    report: &'a Reporter,
) -> Result<(KnockSuccess, KnockRepeater<'a>), ClientError> {
    let request = match request {
        ClientRequest::One(request) => request,
        ClientRequest::Several(request) => {
            return Ok((fan_out::knock(request, report)?, None));
        }
    };
    match (request.ports, request.reply) {
        (Some(mode), _) => {
            let (knocked, knocker) = ports::knock::knock(request, mode, report)?;
            Ok((knocked, Some(Box::new(knocker))))
        }
        (None, ReplyWanted::No) => {
            let (knocked, others) = knock::unanswered::knock(request, report)?;
            Ok((knocked, Some(Box::new(others))))
        }
        (None, ReplyWanted::Yes) => Ok((knock::knock(request, report)?, None)),
    }
}

/// Shows a key: in a file, or the one for the server of this name.
fn show(named: Option<&Path>, key: Option<&Path>) -> Result<(), ClientError> {
    let server = named.filter(|path| !is_key_file(path)).and_then(Path::to_str);
    let key = match server {
        Some(server) => knock::profiles::key_for(server)?,
        None => keys::commands::key_to_show(named.or(key))?,
    };
    keys::commands::show(&key)
}

/// Whether an argument names a key file rather than a server.
fn is_key_file(path: &Path) -> bool {
    let is_name = path.components().count() == 1 && path.extension() != Some(OsStr::new("key"));
    path == Path::new("-") || !is_name || files::exists(path)
}

fn run(command: ClientSubcommand) -> Result<ExitCode, ClientError> {
    match command {
        ClientSubcommand::Keep(args) => return keep::keep(args),
        ClientSubcommand::Keygen { output, client } => keys::commands::keygen(output.as_deref(), client),
        ClientSubcommand::Derive { key, server_id } => keys::commands::derive(key.as_deref(), server_id),
        ClientSubcommand::Show { file, key } => show(file.as_deref(), key.as_deref()),
        ClientSubcommand::Connect(args) => connect::connect(args),
        ClientSubcommand::Import(args) => match &args.fwknoprc {
            Some(file) => fwknop::import(file, &args.stanza, args.dry_run),
            None => keys::import::import(args.token),
        },
        ClientSubcommand::Doctor(args) => doctor::examine(args),
        ClientSubcommand::Legacy(args) => legacy::knock(&args),
        ClientSubcommand::Fwknop(args) => fwknop::send(&args),
        ClientSubcommand::Completions { shell } => {
            report::print(completion::script(&command_line(), shell).as_bytes())
        }
        ClientSubcommand::Man => {
            report::print(manual::page(command_line(), manual::Section::Commands).as_bytes())
        }
    }
    .map(|()| ExitCode::SUCCESS)
}
