//! The legacy daemon's gate. It is there as long as a door has `Open`; without such a door the firewall is left alone,
//! and so is the lock of the gate.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::config_file::KnockdConfig;
use super::doors::DoorOutcome;
use super::grants::{GrantRefused, Openings};
use crate::config::BackendKind;
use crate::console::AdminError;
use crate::firewall::{self, Enforcement, FirewallError, Nftables};
use crate::gate::lock::lock_gate;
use crate::gate::state::GateState;
use crate::gate::{Gate, GateConfig, established_connections};
use crate::legacy::knockd::GrantSpec;
use crate::os::host;
use crate::os::poll::Polled;
use spa_knock_core::knock::{PortRange, Steady};

/// What to do where the daemon of sealed knocks has the gate.
const BOTH: &str =
    "one daemon has all doors: knockd = \"FILE\" below [legacy] of spa-knockd.toml, and `spa-knockd run`";

/// The gate, if there is one.
pub(in crate::legacy) struct LegacyGate {
    /// Where it is remembered.
    folder: PathBuf,
    closed: Option<ActiveGate>,
}

/// A gate that only a door opens.
struct ActiveGate {
    guarded: GatePorts,
    gate: Gate,
    openings: Openings,
    /// Held, not used; none where none could be taken.
    _lock: Option<File>,
}

/// The ports that only a door opens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GatePorts {
    ports: BTreeSet<PortRange>,
    folder: PathBuf,
}

impl LegacyGate {
    /// Takes the gate if a door of `written` has `Open`. Where it has been closed before it closes now, before anything
    /// that can fail; at the first start that is left to `activate`, so that nobody is shut out by a daemon that could
    /// not have let him in.
    ///
    /// # Errors
    /// When another daemon has it, or the firewall does not take it.
    pub(in crate::legacy) fn open(folder: &Path, written: &KnockdConfig) -> Result<Self, AdminError> {
        let mut gate = Self { folder: folder.to_owned(), closed: None };
        let gate_state = GateState::read_trusted(folder)?;
        match gate.guarded(written) {
            Some(guarded) => {
                let mut closed =
                    ActiveGate::take_over(guarded, gate_state).map_err(|why| refused(written, &why))?;
                if gate_state == GateState::Closed {
                    closed.load().map_err(|why| refused(written, &why))?;
                }
                gate.closed = Some(closed);
            }
            // Whose table there is now, nobody knows: it is not for us to open.
            None if gate_state == GateState::Closed => {
                log::warn!(
                    "no door has Open any more, but the ports of the doors that had it may still be closed\n\
                     hint: `nft delete table inet spa_knock` opens them"
                );
                GateState::Open.write(folder)?;
            }
            None => {}
        }
        Ok(gate)
    }

    /// From now on only these doors open their ports, or every port is open if none has `Open`.
    ///
    /// # Errors
    /// When another daemon has the gate, or the firewall does not take it; nothing has changed then.
    pub(in crate::legacy) fn activate(&mut self, written: &KnockdConfig) -> Result<(), AdminError> {
        let refused = |why: String| refused(written, &why);
        match (self.guarded(written), &mut self.closed) {
            (None, None) => {}
            (None, Some(closed)) => {
                closed
                    .set_state(GateState::Open)
                    .map_err(|why| AdminError::run(format_args!("gate: {why}")))?;
                self.closed = None;
                log::info!("gate: no door has Open any more; all ports are open");
            }
            (Some(guarded), Some(closed)) => {
                closed.turn_to(guarded).map_err(refused)?;
                closed.announce();
            }
            (Some(guarded), None) => {
                let mut closed = ActiveGate::take_over(guarded, GateState::NeverClosed).map_err(refused)?;
                closed.close().map_err(refused)?;
                closed.announce();
                self.closed = Some(closed);
            }
        }
        Ok(())
    }

    /// Lets in for whom a door has opened. What else the doors come to is in their log.
    pub(in crate::legacy) fn grant_all(&mut self, outcomes: Vec<DoorOutcome>) {
        let Some(closed) = &mut self.closed else { return };
        let opened = outcomes.into_iter().filter_map(|outcome| match outcome {
            DoorOutcome::Opened { door, source, opening: Some(opening) } => Some((door, source, opening)),
            _ => None,
        });
        let opened: Vec<_> = opened.collect();
        // Once for all of them: each look asks the kernel.
        let own = if opened.is_empty() { BTreeSet::new() } else { host::own_addresses() };
        for (door, source, opening) in opened {
            closed.grant(&door, source, opening, &own);
        }
    }

    /// Mends what somebody else has broken.
    pub(in crate::legacy) fn run_due(&mut self) {
        if let Some(ActiveGate { gate, guarded, .. }) = &mut self.closed {
            gate.run_due(guarded);
        }
    }

    /// The daemon ends; what is closed stays so, and grants end in their time.
    pub(in crate::legacy) fn suspend(&mut self) {
        let Some(closed) = &mut self.closed else { return };
        if let Err(error) = closed.gate.suspend() {
            log::error!("{error}; what is open stays open until the next start");
        }
        let grants = closed.gate.grants_at_the_end();
        log::info!("gate: {grants}, {} closed", closed.guarded);
    }

    fn guarded(&self, written: &KnockdConfig) -> Option<GatePorts> {
        let ports: BTreeSet<_> = written.opened().collect();
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
    /// The gate is ours, and the firewall can be asked; nothing is closed yet.
    fn take_over(guarded: GatePorts, gate_state: GateState) -> Result<Self, String> {
        let lock = lock_gate(BOTH).map_err(|failure| failure.text())?;
        let firewall = Nftables::open().map_err(|error| describe(&error))?;
        // Whether it is to be closed the doors say, and no trial is known here.
        let gate_state = if gate_state == GateState::Closed { gate_state } else { GateState::NeverClosed };
        let gate = Gate::new(Box::new(firewall), gate_state);
        Ok(Self { guarded, gate, openings: Openings::default(), _lock: lock })
    }

    fn load(&mut self) -> Result<(), String> {
        self.gate.load(&self.guarded).map_err(|error| describe(&error))
    }

    fn set_state(&mut self, gate_state: GateState) -> Result<(), String> {
        self.gate.set_state(gate_state, &self.guarded).map_err(|error| describe(&error))
    }

    /// Closes for the first time.
    fn close(&mut self) -> Result<(), String> {
        match self.set_state(GateState::Closed) {
            // It is closed by now, and this daemon alone can let somebody in.
            Err(why) if self.gate.gate_state() == GateState::Closed => {
                log::error!("gate: {why}\nafter a boot it closes only once the doors are watched");
                Ok(())
            }
            changed => changed,
        }
    }

    /// Other ports, in one transaction.
    fn turn_to(&mut self, guarded: GatePorts) -> Result<(), String> {
        let is_closed = self.gate.gate_state() == GateState::Closed;
        if is_closed && self.guarded == guarded {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.guarded, guarded);
        let turned = if is_closed { self.load() } else { self.close() };
        turned.inspect_err(|_| self.guarded = before)
    }

    fn grant(&mut self, door: &str, source: IpAddr, opening: GrantSpec, own: &BTreeSet<IpAddr>) {
        let ports = listed(&opening.ports);
        let term = humantime::format_duration(opening.term);
        let Self { guarded, gate, openings, .. } = self;
        match openings.open((door, source, opening), own, gate, guarded) {
            Ok(()) => log::info!("{door}: {ports} open for {source}, for {term}"),
            Err(GrantRefused { reason, .. }) => {
                log::warn!("{door}: {ports} not opened for {source}: {}", reason.detail)
            }
        }
    }

    fn announce(&self) {
        log::info!("gate: {} closed without a grant", self.guarded);
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

/// The first door with `Open`, and why it cannot have it.
fn refused(written: &KnockdConfig, why: &str) -> AdminError {
    let door = written.opens().map_or("", |door| &door.name);
    AdminError::run(format_args!("config: section {door}: Open: {why}"))
}

/// What the firewall says, with what mends it here: this daemon has no other backend.
fn describe(error: &FirewallError) -> String {
    const COMMANDS: &str = "or commands in place of Open and For";
    match error {
        FirewallError::NoProgram => {
            format!("firewall: nft not found\nhint: apt install nftables, {COMMANDS}")
        }
        FirewallError::Other(_) => {
            format!("{error}\nhint: see what `nft list ruleset` says, {COMMANDS}")
        }
        other => other.to_string(),
    }
}
