//! The state of the gate, in the file `gate` of the state directory: on, off, or on trial.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::os::files::{self, FileError, FileMode};
use crate::os::{clock, host};
use crate::state;
use spa_knock_core::knock::{BootTime, ClientName};

const FILE: &str = "gate";

/// The state of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GateState {
    /// It has never been closed. A start closes it as its last step, so that a daemon that cannot grant access locks no
    /// one out.
    NeverClosed,
    /// On: a start closes it as its first step.
    Closed,
    /// Off until an administrator turns it on.
    Open,
    /// On until this time of this boot, unless it is confirmed.
    Trial(BootTime),
}

impl GateState {
    /// Reads the state directory. A trial of an earlier boot is over; an unreadable trial counts as off.
    ///
    /// # Errors
    /// When the file exists but cannot be read.
    pub(crate) fn read(state: &Path) -> Result<Self, FileError> {
        match files::read_text(&file(state)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.missing => Ok(Self::NeverClosed),
            Err(error) => Err(error),
        }
    }

    /// Reads the state at a start, from a directory that is not checked yet: closed if another user can have written or
    /// removed the file.
    ///
    /// # Errors
    /// When the file exists but cannot be read.
    pub(crate) fn read_trusted(state: &Path) -> Result<Self, FileError> {
        let gate_state = Self::read(state)?;
        if files::check_private_tree(state).is_ok() {
            return Ok(gate_state);
        }
        let written_by_us = files::check_not_writable_by_others(&file(state)).is_ok();
        Ok(match gate_state {
            Self::Open | Self::Trial(_) if !written_by_us => Self::Closed,
            Self::NeverClosed if state::has_run(state) => Self::Closed,
            gate_state => gate_state,
        })
    }

    /// Whether the last daemon of this state directory left the gate on, or on trial; `false` if that cannot be read.
    pub(crate) fn is_on_in(state: &Path) -> bool {
        matches!(Self::read(state), Ok(Self::Closed | Self::Trial(_)))
    }

    /// Writes the state to the state directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(self, state: &Path) -> Result<(), FileError> {
        self.write_for(state, None)
    }

    /// Writes the state, and for a trial the only client whose knocks confirm it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_for(self, state: &Path, confirmer: Option<&ClientName>) -> Result<(), FileError> {
        let text = match self {
            Self::NeverClosed => return Ok(()),
            Self::Closed => "on\n".to_owned(),
            Self::Open => "off\n".to_owned(),
            Self::Trial(until) => {
                let boot = host::boot_id().unwrap_or_default();
                let by = confirmer.map(|client| format!(" {client}")).unwrap_or_default();
                format!("trial {} {boot}{by}\n", until.as_millis())
            }
        };
        files::replace(&file(state), FileMode::Private, text.as_bytes())
    }

    fn parse(text: &str) -> Self {
        let fields: Vec<&str> = text.split_whitespace().collect();
        match fields.as_slice() {
            ["off"] => Self::Open,
            ["trial", until, boot] | ["trial", until, boot, _] => match until.parse().map(clock::boot_at) {
                Ok(until) if Some(*boot) == host::boot_id().as_deref() && until > clock::boot() => {
                    Self::Trial(until)
                }
                _ => Self::Open,
            },
            // Closed if in doubt.
            _ => Self::Closed,
        }
    }
}

impl fmt::Display for GateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverClosed | Self::Closed => f.write_str("on"),
            Self::Open => f.write_str("off"),
            Self::Trial(until) => {
                write!(f, "on trial, turns off in {} s", until.since(clock::boot()).as_secs())
            }
        }
    }
}

/// The only client whose knocks confirm the trial in the state directory; `None` is any client.
pub(crate) fn confirmer(state: &Path) -> Option<ClientName> {
    let text = files::read_text(&file(state)).ok()?;
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["trial", _, _, client] => client.parse().ok(),
        _ => None,
    }
}

fn file(state: &Path) -> PathBuf {
    state.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_state_is_read_again_and_a_finished_trial_is_off() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(GateState::read(scratch.path()).unwrap(), GateState::NeverClosed);
        let later = clock::boot_at(clock::boot().as_millis() + 60_000);
        for gate_state in [GateState::Closed, GateState::Open, GateState::Trial(later)] {
            gate_state.write(scratch.path()).unwrap();
            assert_eq!(GateState::read(scratch.path()).unwrap(), gate_state);
        }
        let laptop: ClientName = "laptop".parse().unwrap();
        GateState::Trial(later).write_for(scratch.path(), Some(&laptop)).unwrap();
        assert_eq!(GateState::read(scratch.path()).unwrap(), GateState::Trial(later));
        assert_eq!(confirmer(scratch.path()), Some(laptop));
        GateState::Trial(clock::boot_at(1)).write(scratch.path()).unwrap();
        assert_eq!(GateState::read(scratch.path()).unwrap(), GateState::Open);
        assert_eq!(GateState::parse(&format!("trial {} another-boot", later.as_millis())), GateState::Open);
        for invalid in ["", "of", "trial", "\0"] {
            assert_eq!(GateState::parse(invalid), GateState::Closed, "{invalid:?}");
        }
    }
}
