//! `spa-knockd gate`: closes the gate, on trial if wished, or opens it; by the daemon if one runs, else by itself.

use std::path::Path;
use std::time::Duration;

use super::console::{Failure, tell};
use super::control::{self, Answer, Heard, OnOff, Question};
use super::grants::unexpected;
use super::run::Loaded;
use super::standing::Standing;
use super::state;
use crate::os::clock;

/// Closes or opens the gate.
///
/// # Errors
/// When the config is bad, or the firewall does not take it.
pub(super) fn gate(path: &Path, to: OnOff, trial: Option<Duration>) -> Result<(), Failure> {
    if to == OnOff::Off && trial.is_some() {
        return Err(Failure::usage("gate off: only `gate on` can be on trial"));
    }
    let loaded = Loaded::load(path)?;
    let trial_ms = trial.map(|trial| u64::try_from(trial.as_millis()).unwrap_or(u64::MAX));
    match control::ask(&loaded.config.control, &Question::Gate { to, trial_ms })? {
        Heard::Answer(Answer::Done) => {}
        Heard::Answer(other) => return Err(unexpected(other)),
        Heard::Nobody => {
            let _lock = state::lock(&loaded.config.state_dir)?;
            let mut gatehouse = loaded.gatehouse(Standing::read(&loaded.config.state_dir)?)?;
            gatehouse.change(standing(to, trial), &loaded).map_err(Failure::run)?;
            gatehouse.rest().map_err(Failure::run)?;
        }
    }
    let doors = loaded.doors();
    match (to, trial) {
        (OnOff::Off, _) => tell("gate: off; all ports are open, also after a restart of the daemon"),
        (OnOff::On, None) => tell(format_args!("gate: on; {doors} closed but for grants")),
        (OnOff::On, Some(trial)) => tell(format_args!(
            "gate: on trial; {doors} closed but for grants\n\
             knock within {}, or say `spa-knockd gate on`: else the kernel opens it again by itself",
            humantime::format_duration(trial)
        )),
    }
    Ok(())
}

/// What is to become of the gate.
pub(super) fn standing(to: OnOff, trial: Option<Duration>) -> Standing {
    match (to, trial) {
        (OnOff::Off, _) => Standing::Off,
        (OnOff::On, None) => Standing::On,
        (OnOff::On, Some(trial)) => Standing::Trial(clock::boot().saturating_add(trial)),
    }
}
