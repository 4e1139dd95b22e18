//! Grants that root makes on the console with `spa-knockd let-in`.

use std::net::IpAddr;
use std::time::Duration;

use super::event_loop::Daemon;
use crate::control::Response;
use crate::gate::console_grants;
use crate::gate::state::GateState;
use spa_knock_core::knock::PortRange;

impl Daemon {
    /// Grants an address access to these ports, or to all protected ports if none are given. Returns the ports granted;
    /// none if the gate is off or protects nothing.
    ///
    /// # Errors
    /// A message that names the invalid address or port, or the firewall's error.
    pub(super) fn let_in(
        &mut self,
        address: &str,
        ports: &[String],
        time: Duration,
    ) -> Result<Response, String> {
        let address: IpAddr = address.parse().map_err(|_| format!("{address}: not an address"))?;
        let protected: Vec<PortRange> = self.setup.config.guarded().copied().collect();
        if self.executor.gate_state() == GateState::Open || protected.is_empty() {
            return Ok(Response::LetIn { ports: Vec::new() });
        }
        let requested: Result<Vec<PortRange>, String> =
            ports.iter().map(|ports| ports.parse().map_err(|_| format!("{ports}: not a port"))).collect();
        let ports = Some(requested?).filter(|ports| !ports.is_empty()).unwrap_or(protected);
        let grants = console_grants::grants(address, ports.clone(), time)?;
        self.executor.gate().grant_unconfirmed(&grants, &self.setup).map_err(|error| error.to_string())?;
        if let Some(record) = console_grants::record(address, time) {
            self.audit(&record);
        }
        Ok(Response::LetIn { ports: ports.iter().map(ToString::to_string).collect() })
    }
}
