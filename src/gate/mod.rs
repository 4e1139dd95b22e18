//! The firewall as the daemon uses it: closes the gate and keeps it closed, opens for grants, gives signs of life.

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

/// What a config says of the gate.
pub(crate) trait GateConfig {
    /// What it consists of, with the connections that there are now.
    fn gate(&self, enforcing: Enforcement) -> GateSpec;

    /// What loads it.
    fn backend(&self) -> BackendKind;

    /// The folder that remembers what is to become of it.
    fn state_dir(&self) -> &Path;

    /// Whose rules close the ports.
    fn mode(&self) -> FirewallMode {
        FirewallMode::Guard
    }
}

/// The firewall, and what is to become of the gate.
pub(crate) struct Gate {
    firewall: Box<dyn Backend>,
    gate_state: GateState,
    /// When the next sign of life is due.
    alive: Steady,
    /// When our table is to be loaded again.
    mend: Option<Steady>,
    unremembered: Option<FileError>,
    /// Whose knocks alone confirm a trial; none = those of any client.
    confirmer: Option<ClientName>,
    /// What the next boot closes.
    boot: BootGate,
    /// Whether our table is loaded and this process looks after it.
    upkept: bool,
}

impl Drop for Gate {
    /// A start that fails after the table is loaded leaves nothing open that only a daemon would close.
    fn drop(&mut self) {
        if self.upkept
            && let Err(error) = self.suspend()
        {
            log::error!("{error}; grants that only a daemon closes may stay open until the next start");
        }
    }
}

impl Gate {
    pub(crate) fn new(firewall: Box<dyn Backend>, gate_state: GateState) -> Self {
        Self {
            firewall,
            gate_state,
            alive: clock::steady(),
            mend: None,
            unremembered: None,
            confirmer: None,
            boot: BootGate::default(),
            upkept: false,
        }
    }

    /// From now on only this client's knocks confirm a trial; none = those of any client. Returns who did before.
    pub(crate) const fn set_confirmer(&mut self, client: Option<ClientName>) -> Option<ClientName> {
        std::mem::replace(&mut self.confirmer, client)
    }

    /// What is to become of the gate.
    pub(crate) const fn gate_state(&self) -> GateState {
        self.gate_state
    }

    /// Closes the gate as a config says it, unless it is off.
    ///
    /// # Errors
    /// When the firewall does not take it; nothing has changed then.
    pub(crate) fn load(&mut self, config: &impl GateConfig) -> Result<(), FirewallError> {
        let enforcing = match self.gate_state {
            GateState::Open => return Ok(()),
            GateState::NeverClosed | GateState::Closed => Enforcement::Permanent,
            GateState::Trial(until) => Enforcement::Trial(until.since(clock::boot())),
        };
        let gate = config.gate(enforcing);
        self.firewall.load(&gate)?;
        self.upkept = true;
        // A trial is over with this boot.
        if enforcing == Enforcement::Permanent {
            self.boot.remember(config.state_dir(), config.backend(), &gate);
        }
        Ok(())
    }

    /// Opens or closes the gate, and remembers it; `unremembered` is why it could not be.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn set_state(
        &mut self,
        gate_state: GateState,
        config: &impl GateConfig,
    ) -> Result<(), FirewallError> {
        let before = std::mem::replace(&mut self.gate_state, gate_state);
        let changed = match gate_state {
            GateState::Open => self.firewall.remove().inspect(|()| self.upkept = false),
            _ => self.load(config),
        };
        changed.inspect_err(|_| self.gate_state = before)?;
        // A full disk must not keep the admin from opening or closing it.
        self.unremembered = gate_state.write_for(config.state_dir(), self.confirmer.as_ref()).err();
        if let Some(error) = &self.unremembered {
            log::error!("gate: {gate_state} now, but not remembered for the next start: {error}");
        }
        Ok(())
    }

    /// Why the last change is not remembered.
    pub(crate) const fn unremembered(&self) -> Option<&FileError> {
        self.unremembered.as_ref()
    }

    /// What becomes of grants when this process ends.
    pub(crate) fn grants_at_the_end(&self) -> &'static str {
        match self.firewall.kernel_closes() {
            true => "grants stay until they expire",
            false => "grants are closed until the next start, as only a daemon ends them without ipset",
        }
    }

    /// This process looks after nothing any more: what only a daemon would close is closed until the next one starts.
    ///
    /// # Errors
    /// When the firewall does not do it.
    pub(crate) fn suspend(&mut self) -> Result<(), FirewallError> {
        self.upkept = false;
        match self.firewall.suspend() {
            Err(FirewallError::Gone) | Ok(()) => Ok(()),
            failed => failed,
        }
    }
}
