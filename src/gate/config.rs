//! What a config says of the gate, and the gate of the backend that it names.

use std::path::Path;

use super::state::{self, Standing};
use super::{Gatehouse, Plan, older};
use crate::capture::CaptureKind;
use crate::config::setup::Setup;
use crate::config::{Backend as BackendKind, Interfaces};
use crate::console::Failure;
use crate::firewall::{Backend, Background, Enforcing, Gate, Iptables, Mode, Nftables, NoFirewall};
use crate::knock::Ports;
use crate::os::host::{self, Link};

/// The gate of the backend that the config names; nothing is loaded yet.
///
/// # Errors
/// When the firewall cannot be asked, or cannot do what an action needs.
pub(crate) fn open(setup: &Setup, standing: Standing) -> Result<Gatehouse, Failure> {
    let firewall: Box<dyn Backend> = match setup.config.backend {
        BackendKind::Nftables => Box::new(Nftables::open().map_err(Failure::run)?),
        BackendKind::Iptables => Box::new(Background::new(iptables(setup)?).map_err(Failure::run)?),
        BackendKind::None => Box::new(NoFirewall),
    };
    let mut gatehouse = Gatehouse::new(firewall, standing);
    gatehouse.set_confirmer(state::confirmer(&setup.config.state_dir));
    Ok(gatehouse)
}

fn iptables(setup: &Setup) -> Result<Iptables, Failure> {
    let iptables = Iptables::open(&setup.config.state_dir).map_err(Failure::run)?;
    let once = setup.config.actions.iter().find(|(_, action)| action.opens_once());
    match once.filter(|_| !iptables.kernel_closes()) {
        Some((name, _)) => Err(Failure::run(format_args!(
            "action.{name}.once: needs ipset with backend \"iptables\"\nhint: apt install ipset"
        ))),
        None => Ok(iptables),
    }
}

impl Plan for Setup {
    fn gate(&self, enforcing: Enforcing) -> Gate {
        let config = &self.config;
        let silent_port = (config.capture == CaptureKind::Pcap).then_some(config.port);
        let early = match &config.interfaces {
            // What is passed on between networks comes by here too, and may use this port number.
            // One that is not there yet would cost the others their early drop.
            Interfaces::Named(names) if silent_port.is_some() && !host::forwards() => {
                names.iter().filter(|name| host::link(name) != Link::Missing).cloned().collect()
            }
            _ => Vec::new(),
        };
        let gated = config.gated();
        let is_gated = |door| gated.iter().chain(&config.published).any(|ports: &Ports| ports.contain(door));
        let older = older(is_gated);
        Gate {
            protect: gated,
            published: config.published.clone(),
            mode: config.mode,
            enforcing,
            failsafe: config.failsafe.clone(),
            silent_port,
            early,
            older,
        }
    }

    fn backend(&self) -> BackendKind {
        self.config.backend
    }

    fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    fn mode(&self) -> Mode {
        self.config.mode
    }
}
