//! Connections to protected ports that were established before the gate closed.

use crate::os::net::proc_net::{self, TcpConnection};
use spa_knock_core::knock::{PortRange, PortSpec, Protocol};

/// The size of the sets for connections older than the gate.
const OLDER_MAX: usize = 65_536;

/// The established connections from other hosts to guarded ports, which must survive.
pub(crate) fn established_connections(is_guarded: impl Fn(PortRange) -> bool) -> Vec<TcpConnection> {
    let established = proc_net::established().unwrap_or_else(|error| {
        log::warn!("{error}; connections older than the gate may hang");
        Vec::new()
    });
    let guarded = |port| PortSpec::new(Protocol::Tcp, port).is_some_and(|port| is_guarded(port.into()));
    let established =
        established.into_iter().filter(|c| !c.local.ip().is_loopback() && guarded(c.local.port()));
    established.take(OLDER_MAX).collect()
}
