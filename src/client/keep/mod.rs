//! `keep`: knocks, and knocks again before the grant ends and when the own address changes, as long as a command runs.

mod outage;
mod renewals;
mod schedule;
mod surroundings;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use super::args::{CommonArgs, KeepArgs};
use super::failure::{ClientError, ExitCause};
use super::fan_out::outcome::ServerOutcome;
use super::keys::sources::VARIABLE;
use super::knock::request::ClientRequest;
use super::knock::{KnockSuccess, addresses};
use super::report::Reporter;
use super::{carry_out, knock_and_wait, wait_for_port};
use crate::os::clock;
use crate::os::files::io_error_text;
use crate::os::process::foreground::ForegroundCommand;
use renewals::Renewals;
use schedule::{Schedule, renewal};
use surroundings::OwnAddresses;

/// Knocks, runs the command, and keeps the port open until it ends; without a command until a signal arrives.
pub(super) fn keep(mut args: KeepArgs) -> Result<ExitCode, ClientError> {
    let report = Reporter::of(&args.common);
    let (every, line) = (args.every, std::mem::take(&mut args.command));
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

    // The servers of a group are resolved at each knock, each by itself.
    let known = match &request {
        ClientRequest::One(one) => addresses(one)?,
        ClientRequest::Several(_) => Vec::new(),
    };
    let resolved = request.at(&known);
    let first = resolved.as_ref().unwrap_or(&request);
    let start = clock::steady();
    let (knocked, own) = knock_first(first, &known, &report)?;
    let grant = shortest_grant(&knocked);
    if grant == Some(Duration::ZERO) && every.is_none() {
        return Err(ClientError::new(
            ExitCause::Usage,
            format!("{}; the action opens nothing that ends: keep is not needed", knocked.text),
        )
        .hint("knock without keep; or repeat the action at an interval of your choice with --every"));
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

/// The first knock, and the own addresses since then. `known` are the addresses of the name.
fn knock_first(
    request: &ClientRequest,
    known: &[SocketAddr],
    report: &Reporter,
) -> Result<(KnockSuccess, OwnAddresses), ClientError> {
    if let ClientRequest::Several(_) = request {
        let (knocked, _) = knock_and_wait(request, report)?;
        let own = OwnAddresses::toward(&knocked.servers, known);
        return Ok((knocked, own));
    }
    let (mut knocked, mut again) = carry_out(request, report)?;
    // Before the wait, so that a change in the meantime is noticed.
    let mut own = OwnAddresses::toward(&knocked.servers, known);
    if let Some(open) = wait_for_port(request, &knocked, again.as_deref_mut(), report)? {
        // Without a reply, only this shows which of several addresses works.
        knocked.servers.retain(|server| server.ip() == open);
        own.watch(&knocked.servers);
    }
    Ok((knocked, own))
}

/// How long the port is open, at each of the servers that have granted; zero if nothing is open, none without a reply.
fn shortest_grant(knocked: &KnockSuccess) -> Option<Duration> {
    let servers = knocked.success.servers.iter().flatten();
    let shortest = servers.filter_map(ServerOutcome::granted_seconds).min().or(knocked.success.seconds);
    shortest.map(|seconds| Duration::from_secs(seconds.into()))
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
