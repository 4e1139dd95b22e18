//! The legacy daemon's gate. It exists as long as a door has `Open`. Without such a door, neither the firewall nor the
//! gate's lock is used.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::config_file::KnockdConfig;
use super::doors::DoorOutcome;
use super::grant_orders::grant_order;
use crate::config::BackendKind;
use crate::console::AdminError;
use crate::firewall::{self, Enforcement, FirewallError, Nftables};
use crate::gate::lock::lock_gate;
use crate::gate::state::GateState;
use crate::gate::{Gate, GateConfig, established_connections};
use crate::legacy::grants::LegacyGrants;
use crate::legacy::knockd::GrantSpec;
use crate::os::host;
use crate::os::poll::Polled;
use spa_knock_core::knock::{PortRange, Steady};

/// Hint if `spa-knockd run` owns the gate.
const BOTH: &str =
    "use one daemon for both: set knockd = \"FILE\" in [legacy] of spa-knockd.toml and run `spa-knockd run`";

/// The gate, if there is one.
pub(in crate::legacy) struct LegacyGate {
    /// The directory that holds its state.
    folder: PathBuf,
    closed: Option<ActiveGate>,
}

/// A gate whose ports are opened only by doors.
struct ActiveGate {
    protected: GatePorts,
    gate: Gate,
    grants: LegacyGrants,
    /// Keeps the lock held. `None` if there was none to take.
    _lock: Option<File>,
}

/// The ports that only doors open.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GatePorts {
    ports: BTreeSet<PortRange>,
    folder: PathBuf,
}

impl LegacyGate {
    /// Takes the gate if a door of `knockd_config` has `Open`. If it was closed before, closes it immediately, before
    /// anything that can fail. At the first start `activate` closes it instead, so that a daemon that fails to start
    /// locks no one out.
    ///
    /// # Errors
    /// If another daemon owns the gate, or the firewall fails.
    pub(in crate::legacy) fn open(folder: &Path, knockd_config: &KnockdConfig) -> Result<Self, AdminError> {
        let mut gate = Self { folder: folder.to_owned(), closed: None };
        let gate_state = GateState::read_trusted(folder)?;
        match gate.protected(knockd_config) {
            Some(protected) => {
                let mut closed = ActiveGate::take(protected, gate_state)
                    .map_err(|reason| refused(knockd_config, &reason))?;
                if gate_state == GateState::Closed {
                    closed.load().map_err(|reason| refused(knockd_config, &reason))?;
                }
                gate.closed = Some(closed);
            }
            // Another daemon may own the present table, so do not remove it.
            None if gate_state == GateState::Closed => {
                log::warn!(
                    "gate: no door has Open any longer, but the ports of doors that had it may still be closed\n\
                     hint: to open them, run `nft delete table inet spa_knock`"
                );
                GateState::Open.write(folder)?;
            }
            None => {}
        }
        Ok(gate)
    }

    /// Protects the ports that the doors of `knockd_config` open, or opens all ports if no door has `Open`.
    ///
    /// # Errors
    /// If another daemon owns the gate, or the firewall fails. Nothing has changed in this case.
    pub(in crate::legacy) fn activate(&mut self, knockd_config: &KnockdConfig) -> Result<(), AdminError> {
        let refused = |reason: String| refused(knockd_config, &reason);
        match (self.protected(knockd_config), &mut self.closed) {
            (None, None) => {}
            (None, Some(closed)) => {
                closed
                    .set_state(GateState::Open)
                    .map_err(|reason| AdminError::run(format_args!("gate: {reason}")))?;
                self.closed = None;
                log::info!("gate: no door has Open any longer; all ports are open");
            }
            (Some(protected), Some(closed)) => {
                closed.protect(protected).map_err(refused)?;
                closed.announce();
            }
            (Some(protected), None) => {
                let mut closed = ActiveGate::take(protected, GateState::NeverClosed).map_err(refused)?;
                closed.close().map_err(refused)?;
                closed.announce();
                self.closed = Some(closed);
            }
        }
        Ok(())
    }

    /// Grants access to the sources for which a door with `Open` has opened. Other outcomes are only logged by the
    /// doors.
    pub(in crate::legacy) fn grant_all(&mut self, outcomes: Vec<DoorOutcome>) {
        let Some(closed) = &mut self.closed else { return };
        let opened = outcomes.into_iter().filter_map(|outcome| match outcome {
            DoorOutcome::Opened { door, source, opening: Some(opening) } => Some((door, source, opening)),
            _ => None,
        });
        let opened: Vec<_> = opened.collect();
        // Only once for all of them, because this asks the kernel.
        let own = if opened.is_empty() { BTreeSet::new() } else { host::own_addresses() };
        for (door, source, opening) in opened {
            closed.grant(&door, source, opening, &own);
        }
    }

    /// Restores rules that others have removed, when due.
    pub(in crate::legacy) fn run_due(&mut self) {
        if let Some(ActiveGate { gate, protected, .. }) = &mut self.closed {
            gate.run_due(protected);
        }
    }

    /// Prepares for the daemon's exit: closed ports stay closed, and grants expire at their time.
    pub(in crate::legacy) fn suspend(&mut self) {
        let Some(closed) = &mut self.closed else { return };
        if let Err(error) = closed.gate.suspend() {
            log::error!("{error}; open ports stay open until the next start");
        }
        let grants = closed.gate.grants_at_the_end();
        log::info!("gate: {grants}, {} closed", closed.protected);
    }

    fn protected(&self, knockd_config: &KnockdConfig) -> Option<GatePorts> {
        let ports: BTreeSet<_> = knockd_config.opened().collect();
        (!ports.is_empty()).then(|| GatePorts { ports, folder: self.folder.clone() })
    }
}

impl Polled for LegacyGate {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        if let Some(closed) = &self.closed {
            closed.gate.fds(out);
        }
    }

    fn deadline(&self) -> Option<Steady> {
        self.closed.as_ref().and_then(|closed| closed.gate.deadline())
    }
}

impl ActiveGate {
    /// Takes the lock and connects to the firewall. Closes nothing yet.
    fn take(protected: GatePorts, gate_state: GateState) -> Result<Self, String> {
        let lock = lock_gate(BOTH).map_err(|failure| failure.text())?;
        let firewall = Nftables::open().map_err(|error| describe(&error))?;
        // Only the doors decide whether the gate is on, and this daemon has no trial.
        let gate_state = if gate_state == GateState::Closed { gate_state } else { GateState::NeverClosed };
        let gate = Gate::new(Box::new(firewall), gate_state);
        Ok(Self { protected, gate, grants: LegacyGrants::default(), _lock: lock })
    }

    fn load(&mut self) -> Result<(), String> {
        self.gate.load(&self.protected).map_err(|error| describe(&error))
    }

    fn set_state(&mut self, gate_state: GateState) -> Result<(), String> {
        self.gate.set_state(gate_state, &self.protected).map_err(|error| describe(&error))
    }

    /// Closes the gate for the first time.
    fn close(&mut self) -> Result<(), String> {
        match self.set_state(GateState::Closed) {
            // The gate is on already, and only this daemon can grant access, so continue.
            Err(reason) if self.gate.gate_state() == GateState::Closed => {
                log::error!(
                    "gate: {reason}\nafter a reboot, the ports stay open until the watcher has started"
                );
                Ok(())
            }
            changed => changed,
        }
    }

    /// Replaces the protected ports in one transaction.
    fn protect(&mut self, protected: GatePorts) -> Result<(), String> {
        let is_closed = self.gate.gate_state() == GateState::Closed;
        if is_closed && self.protected == protected {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.protected, protected);
        let changed = if is_closed { self.load() } else { self.close() };
        changed.inspect_err(|_| self.protected = before)
    }

    fn grant(&mut self, door: &str, source: IpAddr, opening: GrantSpec, own: &BTreeSet<IpAddr>) {
        let ports = listed(&opening.ports);
        let term = humantime::format_duration(opening.term);
        let Self { protected, gate, grants, .. } = self;
        let Some(order) = grant_order(door, source, &opening) else { return };
        match grants.grant(&order, own, gate, protected).reason {
            None => log::info!("{door}: {ports} open for {source}, for {term}"),
            Some(reason) => log::warn!("{door}: {ports} not opened for {source}: {}", reason.detail),
        }
    }

    fn announce(&self) {
        log::info!("gate: {} closed without a grant", self.protected);
    }
}

impl GateConfig for GatePorts {
    fn gate(&self, enforcing: Enforcement) -> firewall::GateSpec {
        firewall::GateSpec {
            protect: self.ports.iter().copied().collect(),
            enforcement: enforcing,
            established: established_connections(|door| self.ports.iter().any(|ports| ports.contain(door))),
            ..firewall::GateSpec::default()
        }
    }

    fn backend(&self) -> BackendKind {
        BackendKind::Nftables
    }

    fn state_dir(&self) -> &Path {
        &self.folder
    }
}

impl std::fmt::Display for GatePorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&listed(&self.ports))
    }
}

fn listed<'a>(ports: impl IntoIterator<Item = &'a PortRange>) -> String {
    ports.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An error that names the first door with `Open`.
fn refused(knockd_config: &KnockdConfig, reason: &str) -> AdminError {
    let door = knockd_config.opens().map_or("", |door| &door.name);
    AdminError::run(format_args!("config: section {door}: Open: {reason}"))
}

/// The error with a hint. Unlike `spa-knockd run`, this daemon has no other backend.
fn describe(error: &FirewallError) -> String {
    const COMMANDS: &str = "or use commands instead of Open and For";
    match error {
        FirewallError::NoProgram => {
            format!("firewall: nft not found\nhint: apt install nftables, {COMMANDS}")
        }
        FirewallError::Other(_) => {
            format!("{error}\nhint: look at the output of `nft list ruleset`, {COMMANDS}")
        }
        other => other.to_string(),
    }
}
