//! The gate: loads the firewall rules and keeps them loaded, creates grants, and sends heartbeats. Runs in the keeper
//! and in the administrator's commands.

pub(crate) mod boot;
pub(crate) mod config;
pub(crate) mod console_grants;
mod established;
mod grants;
pub(crate) mod lock;
pub(crate) mod state;
pub(crate) mod takeover;
mod upkeep;

pub(crate) use established::established_connections;
pub(crate) use grants::{FirewallProgress, Revocation};

use std::path::Path;

use crate::config::BackendKind;
use crate::firewall::{Backend, Enforcement, FirewallError, FirewallMode, GateSpec};
use crate::os::clock;
use crate::os::files::FileError;
use boot::BootGate;
use spa_knock_core::knock::{ClientName, Steady};
use state::GateState;

/// The gate that a config specifies.
pub(crate) trait GateConfig {
    /// What the gate consists of, including the currently established connections.
    fn gate(&self, enforcing: Enforcement) -> GateSpec;

    /// The backend that loads it.
    fn backend(&self) -> BackendKind;

    /// The state directory, which remembers the gate's state.
    fn state_dir(&self) -> &Path;

    /// The firewall mode.
    fn mode(&self) -> FirewallMode {
        FirewallMode::Guard
    }
}

/// The firewall and the state of the gate.
pub(crate) struct Gate {
    firewall: Box<dyn Backend>,
    gate_state: GateState,
    /// When the next heartbeat is due.
    heartbeat_due: Steady,
    /// When our table must be reloaded.
    reload_due: Option<Steady>,
    unremembered: Option<FileError>,
    /// The only client whose knocks confirm a trial; `None` is any client.
    confirmer: Option<ClientName>,
    /// The record of what the next boot closes.
    boot: BootGate,
    /// Whether our table is loaded and this process maintains it.
    is_maintained: bool,
    /// Whether no hint was refused since the last reload of the config.
    can_filter_hints: bool,
}

impl Drop for Gate {
    /// If a start fails after the table is loaded, suspends the grants that only a daemon would end.
    fn drop(&mut self) {
        if self.is_maintained
            && let Err(error) = self.suspend()
        {
            log::error!("{error}; grants that only a daemon ends may stay open until the next start");
        }
    }
}

impl Gate {
    pub(crate) fn new(firewall: Box<dyn Backend>, gate_state: GateState) -> Self {
        Self {
            firewall,
            gate_state,
            heartbeat_due: clock::steady(),
            reload_due: None,
            unremembered: None,
            confirmer: None,
            boot: BootGate::default(),
            is_maintained: false,
            can_filter_hints: true,
        }
    }

    /// Sets the only client whose knocks confirm a trial; `None` is any client. Returns the previous one.
    pub(crate) const fn set_confirmer(&mut self, client: Option<ClientName>) -> Option<ClientName> {
        std::mem::replace(&mut self.confirmer, client)
    }

    /// The state of the gate.
    pub(crate) const fn gate_state(&self) -> GateState {
        self.gate_state
    }

    /// Whether the loaded table is as far as known what the config specifies: no reload is pending.
    pub(crate) const fn is_loaded(&self) -> bool {
        self.reload_due.is_none()
    }

    /// Loads the gate that a config specifies, unless it is off.
    ///
    /// # Errors
    /// When the firewall rejects it. Nothing has changed then.
    pub(crate) fn load(&mut self, config: &impl GateConfig) -> Result<(), FirewallError> {
        let enforcing = match self.gate_state {
            GateState::Open => return Ok(()),
            GateState::NeverClosed | GateState::Closed => Enforcement::Permanent,
            GateState::Trial(until) => Enforcement::Trial(until.since(clock::boot())),
        };
        let mut gate = config.gate(enforcing);
        gate.hinted_port = gate.hinted_port.filter(|_| self.can_filter_hints);
        self.firewall.load(&gate)?;
        self.is_maintained = true;
        // A trial does not outlive this boot, so the next boot must not restore it.
        if enforcing == Enforcement::Permanent {
            self.boot.remember(config.state_dir(), config.backend(), &gate);
        }
        Ok(())
    }

    /// Turns the gate on or off, and remembers it; `unremembered` is the reason if it could not be remembered.
    ///
    /// # Errors
    /// When the firewall rejects the change.
    pub(crate) fn set_state(
        &mut self,
        gate_state: GateState,
        config: &impl GateConfig,
    ) -> Result<(), FirewallError> {
        let before = std::mem::replace(&mut self.gate_state, gate_state);
        let changed = match gate_state {
            GateState::Open => self.firewall.remove().inspect(|()| self.is_maintained = false),
            _ => self.load(config),
        };
        changed.inspect_err(|_| self.gate_state = before)?;
        // A full disk must not prevent the administrator from turning it on or off.
        self.unremembered = gate_state.write_for(config.state_dir(), self.confirmer.as_ref()).err();
        if let Some(error) = &self.unremembered {
            log::error!("gate: {gate_state} now, but not remembered for the next start: {error}");
        }
        Ok(())
    }

    /// The reason why the last change is not remembered, if it is not.
    pub(crate) const fn unremembered(&self) -> Option<&FileError> {
        self.unremembered.as_ref()
    }

    /// What happens to grants when this process exits, as text.
    pub(crate) fn grants_at_the_end(&self) -> &'static str {
        match self.firewall.kernel_closes() {
            true => "grants stay until they expire",
            false => {
                "grants are suspended until the next start, because without ipset only a daemon ends them"
            }
        }
    }

    /// Stops maintaining the gate: suspends, until the next start, the grants that only a daemon would end.
    ///
    /// # Errors
    /// When the firewall rejects the change.
    pub(crate) fn suspend(&mut self) -> Result<(), FirewallError> {
        self.is_maintained = false;
        match self.firewall.suspend() {
            Err(FirewallError::Gone) | Ok(()) => Ok(()),
            failed => failed,
        }
    }
}
