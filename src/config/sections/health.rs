//! Reads `health` and `health-from` of `[server]`: where health checks of load balancers are served, and to which
//! addresses.

use std::net::SocketAddr;

use super::firewall::read_prefixes;
use crate::config::document::{TomlTable, TomlValue};
use crate::config::{HealthSettings, MetricsPlace};
use spa_knock_core::knock::{PortRange, PortSpec, Protocol};

/// Reads both keys, each of which needs the other. `guarded` are the ports that only a grant opens.
pub(super) fn read_health<'a>(
    server: &mut TomlTable<'_>,
    guarded: impl Iterator<Item = &'a PortRange>,
    metrics: Option<&MetricsPlace>,
) -> Option<HealthSettings> {
    let (health, from) = (server.take("health"), server.take("health-from"));
    let (health, from) = match (health, from) {
        (Some(health), Some(from)) => (health, from),
        (Some(health), None) => {
            health.problem(
                "needs health-from: everyone else must not reach this port",
                Some("add health-from = [\"10.0.0.0/16\"] (the addresses of the load balancer)"),
            );
            return None;
        }
        (None, Some(from)) => {
            from.problem(
                "has no effect without health",
                Some("add health = \"10.0.0.5:8080\" (an address of this host)"),
            );
            return None;
        }
        (None, None) => return None,
    };
    let address = read_address(&health, guarded, metrics);
    let from = read_prefixes(&from);
    Some(HealthSettings { address: address?, from: from? })
}

fn read_address<'a>(
    value: &TomlValue<'_>,
    mut guarded: impl Iterator<Item = &'a PortRange>,
    metrics: Option<&MetricsPlace>,
) -> Option<SocketAddr> {
    let Ok(address) = value.text()?.parse::<SocketAddr>() else {
        value.problem(
            "not an address with a port",
            Some("write it like \"10.0.0.5:8080\", \"[2001:db8::5]:8080\" or \"0.0.0.0:8080\""),
        );
        return None;
    };
    let Some(port) = PortSpec::new(Protocol::Tcp, address.port()) else {
        value.problem("port must not be 0", None);
        return None;
    };
    if let Some(ports) = guarded.find(|ports| ports.contain(port.into())) {
        value.problem(
            format_args!("{ports} is closed without a grant, but health checks do not knock"),
            Some("use another port, or remove this one from [firewall]"),
        );
        return None;
    }
    let is_shared = |metrics: SocketAddr| {
        metrics.port() == address.port() && (metrics.ip() == address.ip() || address.ip().is_unspecified())
    };
    if matches!(metrics, Some(MetricsPlace::Tcp(metrics)) if is_shared(*metrics)) {
        value.problem("metrics use this address", Some("use another port"));
        return None;
    }
    Some(address)
}
