//! What the rights of a packet open, in the terms of the gate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use spa_knock_core::auth::AccessTarget;
use spa_knock_core::knock::{PortSpec, Protocol};
use spa_knock_fwknop::{NatTarget, Port, Rights, Transport};

/// The address that gets access, and the ports that it may reach.
///
/// # Errors
/// Why the gate cannot do it.
pub(super) fn targets(rights: &Rights) -> Result<(IpAddr, Vec<AccessTarget>), &'static str> {
    match rights {
        Rights::Open { address, ports, .. } => {
            let open = |port: &Port| spec(*port).map(|port| AccessTarget::Ports(port.into()));
            Ok((*address, ports.iter().filter_map(open).collect()))
        }
        Rights::Forward { address, ports: Some(ports), to: Some(to), is_local, .. } => {
            let to = socket(to, *is_local).ok_or("the NAT target is a host name, which is not resolved")?;
            let forward = |port: &Port| spec(*port).map(|port| AccessTarget::Forward { port, to });
            Ok(((*address).into(), ports.iter().filter_map(forward).collect()))
        }
        Rights::Forward { .. } => Err("FORWARD_ALL and DISABLE_DNAT are not supported"),
        Rights::Command { .. } | Rights::Cycle { .. } => Err("runs a command"),
    }
}

/// An unspecified address means this host.
fn socket(to: &NatTarget, is_local: bool) -> Option<SocketAddr> {
    let host: Ipv4Addr = to.host.parse().ok()?;
    Some(SocketAddr::new(if is_local { Ipv4Addr::UNSPECIFIED } else { host }.into(), to.port))
}

const fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    }
}

/// `None` for port 0, which no packet contains.
fn spec(port: Port) -> Option<PortSpec> {
    PortSpec::new(protocol(port.transport), port.number)
}
