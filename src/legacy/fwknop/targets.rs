//! What the rights of a packet open, in the terms of the gate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use spa_knock_core::auth::{AccessTarget, SourceTranslation, TransitPort, TransitRoute};
use spa_knock_core::knock::{PortSpec, Protocol};
use spa_knock_fwknop::{ForwardSource, Forwarding, Port, Rights, Transport};

/// The address that gets access, and what it may reach. `None` if the packet runs a command.
pub(super) fn targets(rights: &Rights) -> Option<(IpAddr, Vec<AccessTarget>)> {
    match rights {
        Rights::Open { address, ports, .. } => {
            Some((*address, ports.iter().filter_map(|port| open(*port)).collect()))
        }
        Rights::Forward { address, forwarding, source, .. } => {
            Some(((*address).into(), forward(*forwarding, source_translation(*source))))
        }
        Rights::Command { .. } | Rights::Cycle { .. } => None,
    }
}

fn open(port: Port) -> Option<AccessTarget> {
    spec(port).map(|port| AccessTarget::Ports(port.into()))
}

/// As with fwknopd, one target changes the destination, and another one lets the packets pass or changes their source.
fn forward(forwarding: Forwarding, source: SourceTranslation) -> Vec<AccessTarget> {
    let transit = |to| Some(AccessTarget::Transit(TransitRoute { to, source }));
    let route = |port: Port, host| transit(Some(TransitPort { host, port: spec(port)? }));
    let to = |port, to| spec(port).map(|port| AccessTarget::Forward { port, to });
    let targets = match forwarding {
        Forwarding::Port(port, target) => {
            let behind = Port { number: target.port(), ..port };
            let is_kept = source == SourceTranslation::Kept;
            [to(port, target.into()), route(behind, *target.ip()).filter(|_| !is_kept)]
        }
        // Packets that are forwarded to another port of this host still pass the gate there.
        Forwarding::Local(port, number) => {
            let here = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), number);
            [to(port, here), open(Port { number, ..port })]
        }
        Forwarding::Host(host) => [Some(AccessTarget::Divert(host)), transit(None)],
        Forwarding::Direct(port, host) => [route(port, host), None],
        Forwarding::Everywhere => [transit(None), None],
    };
    targets.into_iter().flatten().collect()
}

const fn source_translation(source: ForwardSource) -> SourceTranslation {
    match source {
        ForwardSource::Client => SourceTranslation::Kept,
        ForwardSource::Masquerade => SourceTranslation::Masquerade,
        ForwardSource::Address(address) => SourceTranslation::Address(address),
    }
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
