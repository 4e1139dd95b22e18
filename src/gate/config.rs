//! The gate that a config specifies, with the backend that it names.

use std::path::Path;

use super::state::{self, GateState};
use super::{Gate, GateConfig, established_connections};
use crate::capture::CaptureKind;
use crate::config::setup::Setup;
use crate::config::{BackendKind, HealthSettings, Interfaces};
use crate::console::AdminError;
use crate::firewall::{
    Backend, BackgroundFirewall, EarlyDrop, Enforcement, FirewallMode, GateSpec, Iptables, Nftables,
    NoFirewall,
};
use crate::os::host::{self, LinkState};
use spa_knock_core::knock::PortRange;

/// Creates the gate with the backend that the config names. Loads nothing.
///
/// # Errors
/// When the firewall cannot be accessed, or does not support what an action needs.
pub(crate) fn open(setup: &Setup, gate_state: GateState) -> Result<Gate, AdminError> {
    let firewall: Box<dyn Backend> = match setup.config.backend {
        BackendKind::Nftables => Box::new(Nftables::open().map_err(AdminError::run)?),
        BackendKind::Iptables => {
            Box::new(BackgroundFirewall::new(iptables(setup)?).map_err(AdminError::run)?)
        }
        BackendKind::None => Box::new(NoFirewall),
    };
    let mut gate = Gate::new(firewall, gate_state);
    gate.set_confirmer(state::confirmer(&setup.config.state_dir));
    Ok(gate)
}

fn iptables(setup: &Setup) -> Result<Iptables, AdminError> {
    let iptables = Iptables::open(&setup.config.state_dir).map_err(AdminError::run)?;
    let once = setup.config.actions.iter().find(|(_, action)| action.opens_once());
    match once.filter(|_| !iptables.kernel_closes()) {
        Some((name, _)) => Err(AdminError::run(format_args!(
            "action.{name}.once: needs ipset with backend \"iptables\"\nhint: apt install ipset"
        ))),
        None => Ok(iptables),
    }
}

impl GateConfig for Setup {
    fn gate(&self, enforcing: Enforcement) -> GateSpec {
        let config = &self.config;
        let silent_port = (config.capture == CaptureKind::Pcap).then_some(config.port);
        let hinted_port = config.hint_filter.then_some(config.port);
        // A missing interface would disable the early drop on the others.
        let present = |name: &&String| host::link(name) != LinkState::Missing;
        let named = match &config.interfaces {
            Interfaces::Named(names) => names.iter().filter(present).cloned().collect(),
            Interfaces::Any => Vec::new(),
        };
        let early = match named.is_empty() {
            // Forwarded packets also pass these chains and may use this port number, so a router drops nothing early.
            _ if host::forwards() => EarlyDrop::None,
            true => EarlyDrop::Prerouting,
            false => EarlyDrop::Ingress(named),
        };
        let gated = config.gated();
        let is_gated =
            |port| gated.iter().chain(&config.published).any(|ports: &PortRange| ports.contain(port));
        let established = established_connections(is_gated);
        GateSpec {
            protect: gated,
            published: config.published.clone(),
            mode: config.mode,
            enforcement: enforcing,
            failsafe: config.failsafe.clone(),
            silent_port,
            hinted_port,
            health: config.health.as_ref().map(HealthSettings::port),
            early,
            established,
            ..GateSpec::default()
        }
    }

    fn backend(&self) -> BackendKind {
        self.config.backend
    }

    fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    fn mode(&self) -> FirewallMode {
        self.config.mode
    }
}
