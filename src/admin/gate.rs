//! `spa-knockd gate`: closes the gate, on trial if wished, or opens it; by the daemon if one runs, else by itself.
//! Neither needs a valid config or key.

use std::fs::File;
use std::time::Duration;

use super::facts::Facts;
use crate::config::Backend;
use crate::console::{Failure, listed, tell};
use crate::control::words::{self, unexpected};
use crate::control::{Answer, Heard, OnOff, Question};
use crate::firewall::{FirewallError, Iptables, LoadedGates, Mode};
use crate::gate::lock::lock_gate;
use crate::gate::state::Standing;
use crate::gate::takeover;
use crate::knock::ClientName;
use crate::os::files::FileError;
use crate::{gate, state};

/// Closes or opens the gate.
///
/// # Errors
/// When the firewall does not take it, or it is not known what to close.
pub(crate) fn gate(
    facts: &Facts,
    to: OnOff,
    trial: Option<Duration>,
    by: Option<ClientName>,
) -> Result<(), Failure> {
    match (to, trial) {
        (OnOff::Off, Some(_)) => Err(Failure::usage("gate off: only `gate on` can be on trial")),
        (OnOff::Off, None) => open(facts),
        (OnOff::On, trial) => close(facts, trial, by),
    }
}

/// What the daemon did about a gate that is to be off.
enum ByDaemon {
    /// It is off, and remembered unless this is why not.
    Opened { unremembered: Option<String> },
    /// None runs.
    Nothing,
    /// One runs that closes it again.
    Refused(String),
}

/// Opens all ports: by the daemon, and what is left in the kernel then by itself, of whatever backend it is.
fn open(facts: &Facts) -> Result<(), Failure> {
    let daemon = opened_by_daemon(facts);
    let found = LoadedGates::find().kinds;
    for kind in &found {
        if let Err(error) = kind.remove() {
            tell(format_args!("warning: {kind}: {error}"));
        }
    }
    let now = LoadedGates::find();
    if let Some(kind) = now.kinds.first() {
        let lines = now.kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(" and ");
        return Err(Failure::run(format_args!(
            "gate: not off: {lines} could not be removed; protected ports are closed\nhint: {}",
            kind.remedy()
        )));
    }
    for (kind, error) in &now.unknown {
        let text = format!("whether the kernel has the {kind} is unknown: {error}");
        if *error == FirewallError::NotAllowed || takeover::kind_of(facts.backend) == Some(*kind) {
            return Err(Failure::run(format_args!("gate: maybe not off: {text}")));
        }
        tell(format_args!("warning: {text}"));
    }
    let removed: Vec<_> = found.iter().map(ToString::to_string).collect();
    if !removed.is_empty() && matches!(daemon, ByDaemon::Opened { .. }) {
        tell(format_args!("removed what the daemon did not load: {}", removed.join(", ")));
    }
    let unremembered = match daemon {
        ByDaemon::Opened { unremembered: None } => None,
        // Root may do what the daemon cannot.
        ByDaemon::Opened { .. } | ByDaemon::Nothing => {
            remember_off(facts).err().map(|error| error.to_string())
        }
        ByDaemon::Refused(reason) => {
            let _ = remember_off(facts);
            return Err(Failure::run(format_args!(
                "gate: open now, but a daemon runs that will close it again: {reason}\n\
                 hint: -c names the config that it runs with; or systemctl stop spa-knockd, then again: spa-knockd gate off"
            )));
        }
    };
    let effect = mode(facts).when_off();
    match unremembered {
        None => tell(format_args!("gate: off; {effect}, also after a restart of the daemon")),
        Some(reason) => tell(format_args!(
            "gate: off; {effect}, but only until the daemon or the host starts again: {reason}\n\
             hint: make {} writable and repeat it, or keep the daemon from starting: systemctl disable spa-knockd",
            facts.state_dir.display()
        )),
    }
    Ok(())
}

fn opened_by_daemon(facts: &Facts) -> ByDaemon {
    match facts.ask(&Question::Gate { to: OnOff::Off, trial_ms: None, by: None }) {
        Ok(Heard::Answer(Answer::Done)) => ByDaemon::Opened { unremembered: None },
        Ok(Heard::Answer(Answer::DoneBut { remark })) => ByDaemon::Opened { unremembered: Some(remark) },
        Ok(Heard::Answer(other)) => ByDaemon::Refused(unexpected(other).text()),
        Err(failure) => ByDaemon::Refused(failure.text()),
        Ok(Heard::Nobody) => facts.silent_daemon().map_or(ByDaemon::Nothing, ByDaemon::Refused),
    }
}

fn remember_off(facts: &Facts) -> Result<(), FileError> {
    state::create(&facts.state_dir)?;
    Standing::Off.write(&facts.state_dir)
}

/// Closes the protected ports.
fn close(facts: &Facts, trial: Option<Duration>, by: Option<ClientName>) -> Result<(), Failure> {
    let trial_ms = trial.map(|trial| u64::try_from(trial.as_millis()).unwrap_or(u64::MAX));
    let question = Question::Gate { to: OnOff::On, trial_ms, by: by.as_ref().map(ToString::to_string) };
    let (ports, runs) = match facts.ask(&question)? {
        Heard::Answer(Answer::Done) => (protected(facts), true),
        Heard::Answer(Answer::DoneBut { remark }) => {
            not_remembered(&remark);
            (protected(facts), true)
        }
        Heard::Answer(other) => return Err(unexpected(other)),
        Heard::Nobody => (close_without_daemon(facts, trial, by.clone())?, false),
    };
    let effect = mode(facts).when_on(&ports);
    match trial {
        None => tell(format_args!("gate: on; {effect}")),
        Some(trial) => tell(format_args!(
            "gate: on trial; {effect}\n\
             knock within {}{}, or say `spa-knockd gate on`: else it is off again, and {}",
            humantime::format_duration(trial),
            by.map(|client| format!(" with the key of {client}")).unwrap_or_default(),
            mode(facts).when_off()
        )),
    }
    if !runs {
        let by_hand = match facts.backend == Backend::Iptables && !Iptables::has_sets() {
            // Nothing would close it again.
            true => "",
            false => ", or spa-knockd let-in ADDRESS for one address",
        };
        tell(format_args!(
            "warning: no daemon runs, so no knock is accepted\nhint: systemctl start spa-knockd{by_hand}"
        ));
    }
    Ok(())
}

fn close_without_daemon(
    facts: &Facts,
    trial: Option<Duration>,
    by: Option<ClientName>,
) -> Result<String, Failure> {
    let Some(plan) = &facts.plan else {
        return Err(Failure::run(format_args!(
            "gate: which ports to close is unknown: the config has errors, and {} has none that worked before\n\
             hint: spa-knockd check names the errors; --state-dir names another folder",
            facts.state_dir.display()
        )));
    };
    if plan.config.backend == Backend::None {
        return Err(Failure::run("gate: firewall.backend is \"none\", which closes no port"));
    }
    if let Some(reason) = facts.silent_daemon() {
        return Err(Failure::run(format_args!(
            "gate: a daemon runs: {reason}\n\
             hint: -c names the config that it runs with; or systemctl restart spa-knockd"
        )));
    }
    let _locks = (lock_state(facts)?, lock_gate("try again")?);
    let mut gatehouse = gate::config::open(plan, Standing::read(&facts.state_dir)?)?;
    gatehouse.set_confirmer(by);
    gatehouse.change(words::standing(OnOff::On, trial), plan).map_err(Failure::run)?;
    gatehouse.rest().map_err(Failure::run)?;
    if let Some(error) = gatehouse.unremembered() {
        not_remembered(&error.to_string());
    }
    for message in takeover::remove_other_gates(plan.config.backend) {
        tell(message);
    }
    Ok(plan.doors())
}

/// Keeps a daemon from starting while the gate changes. A state folder that cannot be written is no reason to leave
/// it open.
fn lock_state(facts: &Facts) -> Result<Option<File>, Failure> {
    match state::try_lock(&facts.state_dir) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(state::in_use(&facts.state_dir)),
        Err(error) => {
            tell(format_args!("warning: {error}"));
            Ok(None)
        }
    }
}

fn not_remembered(reason: &str) {
    tell(format_args!("warning: not remembered for the next start: {reason}"));
}

/// Whose rules close the ports, as far as that is known.
fn mode(facts: &Facts) -> Mode {
    facts.plan.as_ref().map(|plan| plan.config.mode).unwrap_or_default()
}

/// The ports that the running daemon protects.
fn protected(facts: &Facts) -> String {
    match facts.ask(&Question::Status {}) {
        Ok(Heard::Answer(Answer::Status { status })) => listed(&status.gate.protect),
        _ => "the protected ports".to_owned(),
    }
}
