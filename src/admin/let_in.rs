//! `spa-knockd let-in`: lets one address in from the console, through the daemon if one responds, else directly in the
//! kernel. Needs no valid config, no key and no free disk space.

use std::net::IpAddr;
use std::time::Duration;

use super::args::LetIn;
use super::facts::DaemonFacts;
use crate::audit::AuditLog;
use crate::config::CONSOLE;
use crate::console::{AdminError, listed, notice, own_command};
use crate::control::words::unexpected;
use crate::control::{AskResult, Request, Response};
use crate::firewall::{GateKind, Iptables, LoadedGates};
use crate::gate::console_grants::{ACTION, grants, record};
use crate::os::clock;
use crate::state;

/// Lets an address in.
///
/// # Errors
/// When it cannot be let in.
pub(crate) fn let_in(facts: &DaemonFacts, args: &LetIn) -> Result<(), AdminError> {
    let seconds = args.time.as_secs();
    let request = Request::LetIn {
        address: args.address.to_string(),
        ports: args.ports.iter().map(ToString::to_string).collect(),
        seconds,
    };
    let daemon_error = match facts.ask(&request) {
        Ok(AskResult::Reply(Response::LetIn { ports })) => {
            return report_opened(args.address, &ports, args.time);
        }
        Ok(AskResult::Reply(other)) => Some(unexpected(other).text()),
        Err(failure) => Some(failure.text()),
        Ok(AskResult::NoDaemon) => None,
    };
    if let Some(daemon_error) = &daemon_error {
        notice(format_args!(
            "warning: the daemon did not let the address in: {daemon_error}; trying without the daemon"
        ));
    }
    let silent = if daemon_error.is_some() { None } else { facts.silent_daemon() };
    // A daemon that starts in the meantime must not miss the grant; a daemon that hangs must not prevent it.
    let _lock = state::try_lock(&facts.state_dir).ok();
    let ports = let_in_directly(facts, args)?;
    report_opened(args.address, &ports, args.time)?;
    match silent {
        _ if ports.is_empty() => Ok(()),
        Some(reason) => Err(AdminError::run(format_args!(
            "let-in: open now, but a running daemon does not know of this grant and may revoke it at any moment: {reason}\n\
             hint: name that daemon's config with -c; or run `systemctl restart spa-knockd`, then `{}` again",
            own_command("let-in ADDRESS")
        ))),
        None if daemon_error.is_some() => {
            notice(
                "warning: the daemon does not know of this grant: a reload or restart may revoke it early",
            );
            Ok(())
        }
        None => Ok(()),
    }
}

/// Lets the address in through each gate in the kernel. Returns the ports that are open to it.
fn let_in_directly(facts: &DaemonFacts, args: &LetIn) -> Result<Vec<String>, AdminError> {
    let found = LoadedGates::find();
    if let (true, Some((kind, error))) = (found.kinds.is_empty(), found.unknown.first()) {
        return Err(AdminError::run(format_args!(
            "let-in: cannot determine whether the kernel has the {kind}: {error}"
        )));
    }
    let mut opened = Vec::new();
    for kind in found.kinds {
        let ports = match args.ports.as_slice() {
            [] => kind.closed_ports().map_err(AdminError::run)?,
            ports => ports.to_vec(),
        };
        let grants = grants(args.address, ports.clone(), args.time).map_err(AdminError::run)?;
        kind.grant_unconfirmed(args.address, &ports, args.time, &format!("{CONSOLE} {ACTION}"))
            .map_err(AdminError::run)?;
        if kind == GateKind::Iptables
            && let Err(error) = Iptables::remember(&facts.state_dir, &grants)
        {
            notice(format_args!("warning: {error}; a daemon that starts within this time revokes the grant"));
        }
        opened.extend(ports.iter().map(ToString::to_string));
    }
    opened.dedup();
    if !opened.is_empty() {
        record_in_audit_log(facts, args);
    }
    Ok(opened)
}

fn record_in_audit_log(facts: &DaemonFacts, args: &LetIn) {
    let Some(plan) = &facts.plan else { return };
    let Some(record) = record(args.address, args.time) else { return };
    let mut audit = AuditLog::open(&plan.config);
    audit.write(&record, clock::wall());
    if let Err(error) = audit.close() {
        notice(format_args!("warning: {error}"));
    }
}

fn report_opened(address: IpAddr, ports: &[String], time: Duration) -> Result<(), AdminError> {
    if ports.is_empty() {
        notice("no port is closed: the gate is off or protects no port");
    } else {
        notice(format_args!(
            "{address}: let in to {} for {}",
            listed(ports),
            humantime::format_duration(Duration::from_secs(time.as_secs()))
        ));
    }
    Ok(())
}
