//! The gate of `spa-knockd fwknopd`. As fwknopd does, it only adds: it closes no port, and packets that a grant admits
//! get a mark that a rule at the start of iptables' chains accepts.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::accept_rules::AcceptRules;
use crate::config::BackendKind;
use crate::console::{AdminError, table};
use crate::firewall::{self, Enforcement, EstablishedSessions, FirewallMode, Iptables, Nftables, PacketMark};
use crate::gate::lock::lock_gate;
use crate::gate::state::GateState;
use crate::gate::{Gate, GateConfig};
use crate::legacy::fwknop::settings::FwknopConfig;
use crate::legacy::grants::{LegacyGrants, LegacyOutcome};
use crate::os::host;
use crate::os::poll::Polled;
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::knock::{PortRange, PortSpec, Protocol, Steady};
use spa_knock_fwknop::{Port, Transport};

/// Hint if `spa-knockd run` owns the gate.
const BOTH: &str = "use one daemon for both: set fwknop = \"/etc/fwknop/access.conf\" in [legacy] of spa-knockd.toml and run `spa-knockd run`";

/// The gate, and the rules that accept its mark.
pub(super) struct FwknopGate {
    ports: MarkedPorts,
    gate: Gate,
    grants: LegacyGrants,
    rules: AcceptRules,
    /// Keeps the lock held.
    _lock: Option<File>,
}

/// The ports whose packets can be marked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MarkedPorts {
    ports: Vec<PortRange>,
    backend: BackendKind,
    folder: PathBuf,
}

impl FwknopGate {
    /// Takes the gate for the ports of these stanzas.
    ///
    /// # Errors
    /// If another daemon owns the gate, or the firewall fails.
    pub(super) fn open(folder: &Path, config: &FwknopConfig) -> Result<Self, AdminError> {
        let lock = lock_gate(BOTH)?;
        let (backend, firewall) = open_firewall(folder)?;
        // A table that lets packets pass unmarked closes nothing, so it is loaded at every start.
        let mut gate = Gate::new(firewall, GateState::NeverClosed);
        let ports = MarkedPorts { ports: ports(config), backend, folder: folder.to_owned() };
        gate.set_state(GateState::Closed, &ports).map_err(AdminError::run)?;
        let forwards = config.server.forwarding || config.server.local_nat;
        let rules = AcceptRules::open(mark(), forwards)?;
        Ok(Self { ports, gate, grants: LegacyGrants::default(), rules, _lock: lock })
    }

    /// Marks the packets of these stanzas from now on.
    ///
    /// # Errors
    /// If the firewall fails. Nothing has changed in this case.
    pub(super) fn replace(&mut self, config: &FwknopConfig) -> Result<(), AdminError> {
        let ports = MarkedPorts { ports: ports(config), ..self.ports.clone() };
        self.gate.load(&ports).map_err(AdminError::run)?;
        self.ports = ports;
        self.rules.set_forwards(config.server.forwarding || config.server.local_nat);
        Ok(())
    }

    /// Makes the grants among these outcomes. Returns the records of all outcomes.
    pub(super) fn carry_out(&mut self, outcomes: Vec<LegacyOutcome>) -> Vec<AuditRecord> {
        self.grants.carry_out(outcomes, &Ok(()), &mut self.gate, &self.ports)
    }

    /// Restores rules that others have removed, when due.
    pub(super) fn run_due(&mut self) {
        self.gate.run_due(&self.ports);
        self.rules.run_due();
    }

    /// Prepares for the daemon's exit: grants end at their time.
    pub(super) fn suspend(&mut self) {
        if let Err(error) = self.gate.suspend() {
            log::error!("{error}; open ports stay open until the next start");
        }
        log::info!("gate: {}", self.gate.grants_at_the_end());
    }

    /// What the gate does, for the log.
    pub(super) fn summary(&self) -> String {
        format!("packets with a grant get the mark {}, {}", mark(), self.rules)
    }
}

impl Polled for FwknopGate {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.gate.fds(out);
        self.rules.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        [self.gate.deadline(), self.rules.deadline()].into_iter().flatten().min()
    }
}

impl GateConfig for MarkedPorts {
    fn gate(&self, enforcing: Enforcement) -> firewall::GateSpec {
        firewall::GateSpec {
            protect: self.ports.clone(),
            mode: self.mode(),
            enforcement: enforcing,
            // The rule that accepts the mark comes first in INPUT. Established packets without a grant must reach the
            // rules after it, such as those of fail2ban. fwknopd, too, accepts a session's packets only until the grant
            // ends; then a rule of the administrator must.
            sessions: EstablishedSessions::NeedGrant,
            ..firewall::GateSpec::default()
        }
    }

    fn backend(&self) -> BackendKind {
        self.backend
    }

    fn state_dir(&self) -> &Path {
        &self.folder
    }

    fn mode(&self) -> FirewallMode {
        FirewallMode::Mark(mark())
    }
}

/// The active grants, as a table.
///
/// # Errors
/// If the firewall cannot be read.
pub(super) fn list_grants(folder: &Path) -> Result<String, AdminError> {
    let (_, mut firewall) = open_firewall(folder)?;
    // Before a load, this reads the kernel's grants.
    firewall.reconcile().map_err(AdminError::run)?;
    let mut grants = firewall.live();
    grants.sort_by_key(|grant| grant.left);
    let mut rows = vec![["STANZA", "FROM", "OPENS", "LEFT"].map(str::to_owned)];
    rows.extend(grants.iter().map(|grant| {
        let left = format!("{}s", grant.left.as_secs());
        [grant.action.to_string(), grant.access.source(), grant.access.target.to_string(), left]
    }));
    Ok(table(&rows, None))
}

/// The firewall of this host: nftables, or else iptables.
fn open_firewall(folder: &Path) -> Result<(BackendKind, Box<dyn firewall::Backend>), AdminError> {
    if host::program("nft").is_some() {
        return Ok((BackendKind::Nftables, Box::new(Nftables::open().map_err(AdminError::run)?)));
    }
    if host::program("iptables").is_none() {
        return Err(AdminError::run("firewall: neither nft nor iptables found\nhint: apt install nftables"));
    }
    Ok((BackendKind::Iptables, Box::new(Iptables::open(folder).map_err(AdminError::run)?)))
}

fn mark() -> PacketMark {
    PacketMark::default()
}

/// The ports that the stanzas can open; all ports if one of them names none, or if clients can ask for a port behind
/// another one.
fn ports(config: &FwknopConfig) -> Vec<PortRange> {
    let listed = |port: Port| {
        let protocol = match port.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        PortSpec::new(protocol, port.number).map(PortRange::from)
    };
    let mut ports = Vec::new();
    for loaded in &config.stanzas {
        match &loaded.stanza.open_ports {
            Some(open) if !config.server.local_nat => {
                ports.extend(open.iter().filter_map(|port| listed(*port)))
            }
            _ => {
                let all = |protocol| PortRange::between(protocol, 1, u16::MAX);
                return [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(all).collect();
            }
        }
    }
    ports.sort();
    ports.dedup();
    ports
}
