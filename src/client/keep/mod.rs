//! `keep`: knocks, and knocks again before the grant ends and when the own address changes, as long as a command runs.

mod outage;
mod renewals;
mod schedule;
mod surroundings;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use super::args::KeepArgs;
use super::failure::{ClientError, ExitCause};
use super::keys::sources::VARIABLE;
use super::knock::request::KnockRequest;
use super::report::Reporter;
use super::{carry_out, wait_for_port};
use crate::os::clock;
use crate::os::files::io_error_text;
use crate::os::process::foreground::ForegroundCommand;
use renewals::Renewals;
use schedule::{Schedule, renewal};
use spa_knock_core::knock::ReplyWanted;
use surroundings::OwnAddresses;

/// Knocks, runs the command, and keeps the port open until it ends; without a command until a signal arrives.
pub(super) fn keep(mut args: KeepArgs) -> Result<ExitCode, ClientError> {
    let report = Reporter::of(&args.common);
    let (every, line) = (args.every, std::mem::take(&mut args.command));
    let request = KnockRequest::to_keep(args)?;
    check(&request, every)?;

    let start = clock::steady();
    let (knocked, mut again) = carry_out(&request, &report)?;
    // Before the wait, so that a change in the meantime is noticed.
    let own = OwnAddresses::toward(&knocked.servers);
    wait_for_port(&request, &knocked, again.as_deref_mut(), &report)?;
    drop(again);
    let grant = knocked.success.seconds.map(|seconds| Duration::from_secs(seconds.into()));
    if grant == Some(Duration::ZERO) && every.is_none() {
        return Err(ClientError::new(
            ExitCause::Usage,
            format!("{}; the action opens nothing that ends: keep is not needed", knocked.text),
        )
        .hint("knock without keep; or repeat the action at an interval of your choice with --every"));
    }
    let grant = grant.filter(|grant| !grant.is_zero());

    let (sender, events) = renewals::channel();
    renewals::listen_to_signals(&sender)?;
    let command = if line.is_empty() {
        let interval = humantime::format_duration(every.or(grant.map(renewal)).unwrap_or_default());
        report.note(&format!("{}; renewing it every {interval} until Ctrl-C", knocked.text));
        None
    } else {
        report.detail(|| knocked.text.clone());
        Some(ForegroundCommand::start(&line, VARIABLE).map_err(|error| not_started(&line, &error))?)
    };
    let schedule = Schedule::new(every, start, grant);
    let report = if command.is_some() { report.beside_command() } else { report };
    let code = Renewals::new(request, report, schedule, own, sender).run(&events, command)?;
    Ok(code.into())
}

/// Rejects requests that cannot be renewed.
fn check(request: &KnockRequest, every: Option<Duration>) -> Result<(), ClientError> {
    if request.reply == ReplyWanted::No && every.is_none() {
        let option = if request.ports.is_some() { "--ports" } else { "--no-reply" };
        return Err(ClientError::new(
            ExitCause::Usage,
            format!("{option}: no reply reports how long the grant lasts, so keep needs --every"),
        )
        .hint("set --every to two thirds of the time for which the action opens the port, e.g. --every 20s"));
    }
    Ok(())
}

/// The codes are those of a shell.
fn not_started(line: &[std::ffi::OsString], error: &io::Error) -> ClientError {
    let program = line.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    let (cause, reason) = match error.kind() {
        io::ErrorKind::NotFound => (ExitCause::CommandNotFound, "not found".to_owned()),
        _ => (ExitCause::CommandNotExecutable, io_error_text(error)),
    };
    ClientError::new(cause, format!("{program}: {reason}"))
}
