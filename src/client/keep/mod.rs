//! `keep`: knocks, and knocks again before the grant ends and when the own address changes, as long as a command runs.

mod first_knock;
pub(super) mod hints;
mod outage;
mod renewals;
mod schedule;
mod server;
mod surroundings;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use super::args::{CommonArgs, KeepArgs};
use super::failure::{ClientError, ExitCause};
use super::keys::sources::VARIABLE;
use super::knock::request::ClientRequest;
use super::report::Reporter;
use crate::os::files::io_error_text;
use crate::os::process::foreground::ForegroundCommand;
use first_knock::{FirstKnock, Printed};
use renewals::Renewals;
use schedule::renewal;

/// Knocks, runs the command, and keeps the port open until it ends; without a command until a signal arrives.
pub(super) fn keep(mut args: KeepArgs) -> Result<ExitCode, ClientError> {
    let report = Reporter::of(&args.common);
    let (every, line) = (args.every, std::mem::take(&mut args.command));
    let may_lack_dashes = line.is_empty() && args.argument.is_some();
    if every.is_none() {
        let CommonArgs { ports, no_reply, .. } = &args.common;
        match (ports.ports, no_reply) {
            (true, _) => return Err(needs_interval("--ports")),
            (false, true) => return Err(needs_interval("--no-reply")),
            (false, false) => {}
        }
    }
    let request = ClientRequest::to_keep(args)?;
    if every.is_none() && !request.gets_replies() {
        return Err(needs_interval("reply = false"));
    }

    let signings = request.signings();
    let printed = if line.is_empty() { Printed::Yes } else { Printed::No };
    let FirstKnock { text, grant, servers } = first_knock::knock(request, every, printed, &report)
        .map_err(|failure| if may_lack_dashes { hints::with_hint(failure) } else { failure })?;
    if grant == Some(Duration::ZERO) && every.is_none() {
        return Err(ClientError::new(
            ExitCause::Usage,
            format!("{text}; the action opens nothing that ends: keep is not needed"),
        )
        .hint("knock without keep; or repeat the action at an interval of your choice with --every"));
    }
    if let Some(key) = signings.iter().find_map(|signing| signing.fido_name()) {
        report.note(&format!("warning: each renewal needs a touch of the key {key}"));
    }
    let grant = grant.filter(|grant| !grant.is_zero());
    if let (Some(every), Some(grant)) = (every, grant)
        && every > grant
    {
        let [every, grant] = [every, grant].map(humantime::format_duration);
        report.note(&format!(
            "warning: --every {every}: the port is closed in between, because the grant lasts {grant}"
        ));
    }

    let (sender, events) = renewals::channel();
    renewals::listen_to_signals(&sender)?;
    let command = if line.is_empty() {
        let interval = every.or(grant.map(renewal)).unwrap_or_default();
        // To the second: the interval of a grant of 4 s is 2.666 s.
        let interval = humantime::format_duration(Duration::from_secs(interval.as_secs().max(1)));
        match servers.len() {
            1 => report.note(&format!("{text}; renewing it every {interval} until Ctrl-C")),
            _ => report.note(&format!("{text}\nrenewing the grants until Ctrl-C")),
        }
        None
    } else {
        report.detail(|| text.clone());
        Some(ForegroundCommand::start(&line, VARIABLE).map_err(|error| not_started(&line, &error))?)
    };
    let report = if command.is_some() { report.beside_command() } else { report };
    let code = Renewals::new(servers, report, sender).run(&events, command)?;
    Ok(code.into())
}

fn needs_interval(option: &str) -> ClientError {
    ClientError::new(
        ExitCause::Usage,
        format!("{option}: no reply reports how long the grant lasts, so keep needs --every"),
    )
    .hint("set --every to two thirds of the time for which the action opens the port, e.g. --every 20s")
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
