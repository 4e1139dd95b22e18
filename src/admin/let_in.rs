//! `spa-knockd let-in`: lets one address in from the console, by the daemon if one answers, else straight in the kernel.
//! It needs no valid config, no key and no room on the disk.

use std::net::IpAddr;
use std::time::Duration;

use super::args::LetIn;
use super::facts::DaemonFacts;
use crate::audit::AuditLog;
use crate::config::CONSOLE;
use crate::console::{AdminError, listed, notice};
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
pub(crate) fn let_in(facts: &DaemonFacts, asked: &LetIn) -> Result<(), AdminError> {
    let seconds = asked.time.as_secs();
    let request = Request::LetIn {
        address: asked.address.to_string(),
        ports: asked.ports.iter().map(ToString::to_string).collect(),
        seconds,
    };
    let trouble = match facts.ask(&request) {
        Ok(AskResult::Answer(Response::LetIn { ports })) => {
            return tell_opened(asked.address, &ports, asked.time);
        }
        Ok(AskResult::Answer(other)) => Some(unexpected(other).text()),
        Err(failure) => Some(failure.text()),
        Ok(AskResult::Nobody) => None,
    };
    if let Some(trouble) = &trouble {
        notice(format_args!("warning: the daemon did not do it: {trouble}; trying it without the daemon"));
    }
    let silent = if trouble.is_some() { None } else { facts.silent_daemon() };
    // A daemon that starts meanwhile must not miss it; one that hangs is no reason to stay out.
    let _lock = state::try_lock(&facts.state_dir).ok();
    let ports = let_in_directly(facts, asked)?;
    tell_opened(asked.address, &ports, asked.time)?;
    match silent {
        _ if ports.is_empty() => Ok(()),
        Some(reason) => Err(AdminError::run(format_args!(
            "let-in: a daemon runs that does not know of it, and may close it any moment: {reason}\n\
             hint: -c names the config that it runs with; or systemctl restart spa-knockd, then again: spa-knockd let-in"
        ))),
        None if trouble.is_some() => {
            notice("warning: the daemon does not know of it: a reload or restart may close it early");
            Ok(())
        }
        None => Ok(()),
    }
}

/// In each gate that the kernel has; the ports that are open now.
fn let_in_directly(facts: &DaemonFacts, asked: &LetIn) -> Result<Vec<String>, AdminError> {
    let found = LoadedGates::find();
    if let (true, Some((kind, error))) = (found.kinds.is_empty(), found.unknown.first()) {
        return Err(AdminError::run(format_args!(
            "let-in: whether the kernel has the {kind} is unknown: {error}"
        )));
    }
    let mut opened = Vec::new();
    for kind in found.kinds {
        let ports = match asked.ports.as_slice() {
            [] => kind.closed_ports().map_err(AdminError::run)?,
            ports => ports.to_vec(),
        };
        let grants = grants(asked.address, ports.clone(), asked.time).map_err(AdminError::run)?;
        kind.grant_unconfirmed(asked.address, &ports, asked.time, &format!("{CONSOLE} {ACTION}"))
            .map_err(AdminError::run)?;
        if kind == GateKind::Iptables
            && let Err(error) = Iptables::remember(&facts.state_dir, &grants)
        {
            notice(format_args!("warning: {error}: a daemon that starts within this time closes it"));
        }
        opened.extend(ports.iter().map(ToString::to_string));
    }
    opened.dedup();
    if !opened.is_empty() {
        put_on_record(facts, asked);
    }
    Ok(opened)
}

fn put_on_record(facts: &DaemonFacts, asked: &LetIn) {
    let Some(plan) = &facts.plan else { return };
    let Some(record) = record(asked.address, asked.time) else { return };
    let mut audit = AuditLog::open(&plan.config);
    audit.write(&record, clock::wall());
    if let Err(error) = audit.close() {
        notice(format_args!("warning: {error}"));
    }
}

fn tell_opened(address: IpAddr, ports: &[String], time: Duration) -> Result<(), AdminError> {
    if ports.is_empty() {
        notice("nothing is closed: the gate is off or protects no port");
    } else {
        notice(format_args!(
            "{address}: let in to {} for {}",
            listed(ports),
            humantime::format_duration(Duration::from_secs(time.as_secs()))
        ));
    }
    Ok(())
}
