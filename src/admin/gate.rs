//! `spa-knockd gate`: turns the gate on, optionally on trial, or off: through the daemon if one runs, else directly.
//! `gate off` works without a valid config or key; `gate on` needs at least the last valid config.

use std::fs::File;
use std::time::Duration;

use super::facts::DaemonFacts;
use crate::config::BackendKind;
use crate::console::{AdminError, listed, notice, own_command};
use crate::control::words::{self, unexpected};
use crate::control::{AskResult, OnOff, Request, Response};
use crate::firewall::{FirewallError, FirewallMode, Iptables, LoadedGates};
use crate::gate::lock::lock_gate;
use crate::gate::state::GateState;
use crate::gate::takeover;
use crate::os::files::FileError;
use crate::{gate, state};
use spa_knock_core::knock::ClientName;

/// Turns the gate on or off.
///
/// # Errors
/// When the firewall rejects the change, or the ports to close are unknown.
pub(crate) fn gate(
    facts: &DaemonFacts,
    to: OnOff,
    trial: Option<Duration>,
    by: Option<ClientName>,
) -> Result<(), AdminError> {
    match (to, trial) {
        (OnOff::Off, Some(_)) => Err(AdminError::usage("gate off: only `gate on` can be on trial")),
        (OnOff::Off, None) => open(facts),
        (OnOff::On, trial) => close(facts, trial, by),
    }
}

/// How the daemon handled a request to turn the gate off.
enum GateReply {
    /// The gate is off; if that could not be remembered for the next start, the reason.
    Opened { unremembered: Option<String> },
    /// No daemon runs.
    NoDaemon,
    /// A daemon runs that will close the gate again, for this reason.
    Refused(String),
}

/// Opens all ports: through the daemon, then removes every gate that is left in the kernel, of any backend.
fn open(facts: &DaemonFacts) -> Result<(), AdminError> {
    let daemon = opened_by_daemon(facts);
    let found = LoadedGates::find().kinds;
    for kind in &found {
        if let Err(error) = kind.remove() {
            notice(format_args!("warning: {kind}: {error}"));
        }
    }
    let now = LoadedGates::find();
    if let Some(kind) = now.kinds.first() {
        let lines = now.kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(" and ");
        return Err(AdminError::run(format_args!(
            "gate: still on: {lines} could not be removed; protected ports are closed\nhint: {}",
            kind.remedy()
        )));
    }
    for (kind, error) in &now.unknown {
        let text = format!("cannot determine whether the kernel has the {kind}: {error}");
        if *error == FirewallError::NotAllowed || takeover::kind_of(facts.backend) == Some(*kind) {
            return Err(AdminError::run(format_args!("gate: may still be on: {text}")));
        }
        notice(format_args!("warning: {text}"));
    }
    let removed: Vec<_> = found.iter().map(ToString::to_string).collect();
    if !removed.is_empty() && matches!(daemon, GateReply::Opened { .. }) {
        notice(format_args!("removed gates that the daemon did not load: {}", removed.join(", ")));
    }
    let unremembered = match daemon {
        GateReply::Opened { unremembered: None } => None,
        // Root can write files that the daemon cannot.
        GateReply::Opened { .. } | GateReply::NoDaemon => {
            remember_off(facts).err().map(|error| error.to_string())
        }
        GateReply::Refused(reason) => {
            let _ = remember_off(facts);
            return Err(AdminError::run(format_args!(
                "gate: off now, but a running daemon will turn it on again: {reason}\n\
                 hint: name that daemon's config with -c; or run `systemctl stop spa-knockd`, then `{}` again",
                own_command("gate off")
            )));
        }
    };
    let effect = mode(facts).when_off();
    match unremembered {
        None => notice(format_args!("gate: off; {effect}, also after a restart of the daemon")),
        Some(reason) => notice(format_args!(
            "gate: off; {effect}, but only until the daemon or the host restarts: {reason}\n\
             hint: make {} writable and repeat the command, or keep the daemon from starting: systemctl disable spa-knockd",
            facts.state_dir.display()
        )),
    }
    Ok(())
}

fn opened_by_daemon(facts: &DaemonFacts) -> GateReply {
    match facts.ask(&Request::Gate { to: OnOff::Off, trial_ms: None, by: None }) {
        Ok(AskResult::Reply(Response::Done)) => GateReply::Opened { unremembered: None },
        Ok(AskResult::Reply(Response::DoneBut { remark })) => {
            GateReply::Opened { unremembered: Some(remark) }
        }
        Ok(AskResult::Reply(other)) => GateReply::Refused(unexpected(other).text()),
        Err(failure) => GateReply::Refused(failure.text()),
        Ok(AskResult::NoDaemon) => facts.silent_daemon().map_or(GateReply::NoDaemon, GateReply::Refused),
    }
}

fn remember_off(facts: &DaemonFacts) -> Result<(), FileError> {
    state::create(&facts.state_dir)?;
    GateState::Open.write(&facts.state_dir)
}

/// Turns the gate on.
fn close(facts: &DaemonFacts, trial: Option<Duration>, by: Option<ClientName>) -> Result<(), AdminError> {
    let trial_ms = trial.map(|trial| u64::try_from(trial.as_millis()).unwrap_or(u64::MAX));
    let request = Request::Gate { to: OnOff::On, trial_ms, by: by.as_ref().map(ToString::to_string) };
    let (ports, runs) = match facts.ask(&request)? {
        AskResult::Reply(Response::Done) => (protected(facts), true),
        AskResult::Reply(Response::DoneBut { remark }) => {
            not_remembered(&remark);
            (protected(facts), true)
        }
        AskResult::Reply(other) => return Err(unexpected(other)),
        AskResult::NoDaemon => (close_without_daemon(facts, trial, by.clone())?, false),
    };
    let effect = mode(facts).when_on(&ports);
    match trial {
        None => notice(format_args!("gate: on; {effect}")),
        Some(trial) => notice(format_args!(
            "gate: on trial; {effect}\n\
             knock within {}{}, or run `{}`; otherwise it turns off, and {}",
            humantime::format_duration(trial),
            by.map(|client| format!(" with the key of {client}")).unwrap_or_default(),
            own_command("gate on"),
            mode(facts).when_off()
        )),
    }
    if !runs {
        let by_hand = match facts.backend == BackendKind::Iptables && !Iptables::has_sets() {
            // Without ipset, nothing would close the port again.
            true => String::new(),
            false => format!(", or {} for one address", own_command("let-in ADDRESS")),
        };
        notice(format_args!(
            "warning: no daemon is running, so no knock is accepted\nhint: systemctl start spa-knockd{by_hand}"
        ));
    }
    Ok(())
}

fn close_without_daemon(
    facts: &DaemonFacts,
    trial: Option<Duration>,
    by: Option<ClientName>,
) -> Result<String, AdminError> {
    let Some(plan) = &facts.plan else {
        return Err(AdminError::run(format_args!(
            "gate: the ports to close are unknown: the config has errors, and {} contains no earlier valid config\n\
             hint: run `{}` to list the errors, or name another state directory with --state-dir",
            facts.state_dir.display(),
            own_command("check")
        )));
    };
    if plan.config.backend == BackendKind::None {
        return Err(AdminError::run("gate: firewall.backend is \"none\", which closes no ports"));
    }
    if let Some(reason) = facts.silent_daemon() {
        return Err(AdminError::run(format_args!(
            "gate: controlled by a running daemon: {reason}\n\
             hint: name that daemon's config with -c; or run `systemctl restart spa-knockd`"
        )));
    }
    let _locks = (lock_state(facts)?, lock_gate("try again")?);
    let mut gate = gate::config::open(plan, GateState::read(&facts.state_dir)?)?;
    gate.set_confirmer(by);
    gate.set_state(words::gate_state(OnOff::On, trial), plan).map_err(AdminError::run)?;
    gate.suspend().map_err(AdminError::run)?;
    if let Some(error) = gate.unremembered() {
        not_remembered(&error.to_string());
    }
    for message in takeover::remove_other_gates(plan.config.backend) {
        notice(message);
    }
    Ok(plan.protected_ports())
}

/// Keeps a daemon from starting while the gate changes. A state directory that cannot be written does not prevent
/// closing the gate.
fn lock_state(facts: &DaemonFacts) -> Result<Option<File>, AdminError> {
    match state::try_lock(&facts.state_dir) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(state::in_use(&facts.state_dir)),
        Err(error) => {
            notice(format_args!("warning: {error}"));
            Ok(None)
        }
    }
}

fn not_remembered(reason: &str) {
    notice(format_args!("warning: not remembered for the next start: {reason}"));
}

/// The firewall mode, if the config is known; else the default.
fn mode(facts: &DaemonFacts) -> FirewallMode {
    facts.plan.as_ref().map(|plan| plan.config.mode).unwrap_or_default()
}

/// The ports that the running daemon protects, as text.
fn protected(facts: &DaemonFacts) -> String {
    match facts.ask(&Request::Status {}) {
        Ok(AskResult::Reply(Response::Status { status })) => listed(&status.gate.protect),
        _ => "the protected ports".to_owned(),
    }
}
