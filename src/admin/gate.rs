//! `spa-knockd gate`: closes the gate, on trial if wished, or opens it; by the daemon if one runs, else by itself.
//! Neither needs a valid config or key.

use std::fs::File;
use std::time::Duration;

use super::facts::DaemonFacts;
use crate::config::BackendKind;
use crate::console::{AdminError, listed, notice};
use crate::control::words::{self, unexpected};
use crate::control::{AskResult, OnOff, Request, Response};
use crate::firewall::{FirewallError, FirewallMode, Iptables, LoadedGates};
use crate::gate::lock::lock_gate;
use crate::gate::state::GateState;
use crate::gate::takeover;
use crate::os::files::FileError;
use crate::{gate, state};
use spa_knock_core::knock::ClientName;

/// Closes or opens the gate.
///
/// # Errors
/// When the firewall does not take it, or it is not known what to close.
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

/// What the daemon did about a gate that is to be off.
enum GateReply {
    /// It is off, and remembered unless this is why not.
    Opened { unremembered: Option<String> },
    /// None runs.
    Nothing,
    /// One runs that closes it again.
    Refused(String),
}

/// Opens all ports: by the daemon, and what is left in the kernel then by itself, of whatever backend it is.
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
            "gate: not off: {lines} could not be removed; protected ports are closed\nhint: {}",
            kind.remedy()
        )));
    }
    for (kind, error) in &now.unknown {
        let text = format!("whether the kernel has the {kind} is unknown: {error}");
        if *error == FirewallError::NotAllowed || takeover::kind_of(facts.backend) == Some(*kind) {
            return Err(AdminError::run(format_args!("gate: maybe not off: {text}")));
        }
        notice(format_args!("warning: {text}"));
    }
    let removed: Vec<_> = found.iter().map(ToString::to_string).collect();
    if !removed.is_empty() && matches!(daemon, GateReply::Opened { .. }) {
        notice(format_args!("removed what the daemon did not load: {}", removed.join(", ")));
    }
    let unremembered = match daemon {
        GateReply::Opened { unremembered: None } => None,
        // Root may do what the daemon cannot.
        GateReply::Opened { .. } | GateReply::Nothing => {
            remember_off(facts).err().map(|error| error.to_string())
        }
        GateReply::Refused(reason) => {
            let _ = remember_off(facts);
            return Err(AdminError::run(format_args!(
                "gate: open now, but a daemon runs that will close it again: {reason}\n\
                 hint: -c names the config that it runs with; or systemctl stop spa-knockd, then again: spa-knockd gate off"
            )));
        }
    };
    let effect = mode(facts).when_off();
    match unremembered {
        None => notice(format_args!("gate: off; {effect}, also after a restart of the daemon")),
        Some(reason) => notice(format_args!(
            "gate: off; {effect}, but only until the daemon or the host starts again: {reason}\n\
             hint: make {} writable and repeat it, or keep the daemon from starting: systemctl disable spa-knockd",
            facts.state_dir.display()
        )),
    }
    Ok(())
}

fn opened_by_daemon(facts: &DaemonFacts) -> GateReply {
    match facts.ask(&Request::Gate { to: OnOff::Off, trial_ms: None, by: None }) {
        Ok(AskResult::Answer(Response::Done)) => GateReply::Opened { unremembered: None },
        Ok(AskResult::Answer(Response::DoneBut { remark })) => {
            GateReply::Opened { unremembered: Some(remark) }
        }
        Ok(AskResult::Answer(other)) => GateReply::Refused(unexpected(other).text()),
        Err(failure) => GateReply::Refused(failure.text()),
        Ok(AskResult::Nobody) => facts.silent_daemon().map_or(GateReply::Nothing, GateReply::Refused),
    }
}

fn remember_off(facts: &DaemonFacts) -> Result<(), FileError> {
    state::create(&facts.state_dir)?;
    GateState::Open.write(&facts.state_dir)
}

/// Closes the protected ports.
fn close(facts: &DaemonFacts, trial: Option<Duration>, by: Option<ClientName>) -> Result<(), AdminError> {
    let trial_ms = trial.map(|trial| u64::try_from(trial.as_millis()).unwrap_or(u64::MAX));
    let request = Request::Gate { to: OnOff::On, trial_ms, by: by.as_ref().map(ToString::to_string) };
    let (ports, runs) = match facts.ask(&request)? {
        AskResult::Answer(Response::Done) => (protected(facts), true),
        AskResult::Answer(Response::DoneBut { remark }) => {
            not_remembered(&remark);
            (protected(facts), true)
        }
        AskResult::Answer(other) => return Err(unexpected(other)),
        AskResult::Nobody => (close_without_daemon(facts, trial, by.clone())?, false),
    };
    let effect = mode(facts).when_on(&ports);
    match trial {
        None => notice(format_args!("gate: on; {effect}")),
        Some(trial) => notice(format_args!(
            "gate: on trial; {effect}\n\
             knock within {}{}, or say `spa-knockd gate on`: else it is off again, and {}",
            humantime::format_duration(trial),
            by.map(|client| format!(" with the key of {client}")).unwrap_or_default(),
            mode(facts).when_off()
        )),
    }
    if !runs {
        let by_hand = match facts.backend == BackendKind::Iptables && !Iptables::has_sets() {
            // Nothing would close it again.
            true => "",
            false => ", or spa-knockd let-in ADDRESS for one address",
        };
        notice(format_args!(
            "warning: no daemon runs, so no knock is accepted\nhint: systemctl start spa-knockd{by_hand}"
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
            "gate: which ports to close is unknown: the config has errors, and {} has none that worked before\n\
             hint: spa-knockd check names the errors; --state-dir names another folder",
            facts.state_dir.display()
        )));
    };
    if plan.config.backend == BackendKind::None {
        return Err(AdminError::run("gate: firewall.backend is \"none\", which closes no port"));
    }
    if let Some(reason) = facts.silent_daemon() {
        return Err(AdminError::run(format_args!(
            "gate: a daemon runs: {reason}\n\
             hint: -c names the config that it runs with; or systemctl restart spa-knockd"
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
    Ok(plan.doors())
}

/// Keeps a daemon from starting while the gate changes. A state folder that cannot be written is no reason to leave
/// it open.
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

/// Whose rules close the ports, as far as that is known.
fn mode(facts: &DaemonFacts) -> FirewallMode {
    facts.plan.as_ref().map(|plan| plan.config.mode).unwrap_or_default()
}

/// The ports that the running daemon protects.
fn protected(facts: &DaemonFacts) -> String {
    match facts.ask(&Request::Status {}) {
        Ok(AskResult::Answer(Response::Status { status })) => listed(&status.gate.protect),
        _ => "the protected ports".to_owned(),
    }
}
