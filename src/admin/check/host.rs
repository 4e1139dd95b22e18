//! The host: interfaces, capabilities, users, the clock, listening services and packet forwarding.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::report::CheckReport;
use crate::config::{BackendKind, Interfaces, ServerConfig, written};
use crate::console::own_command;
use crate::control;
use crate::gate::state::GateState;
use crate::gate::takeover;
use crate::os::clock_sync::{self, ClockSync};
use crate::os::host::{self, LinkState};
use crate::os::net::proc_net;
use crate::os::process::capabilities;
use crate::supervisor::program::Program;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{PortRange, Protocol};

impl CheckReport {
    pub(super) fn host(&mut self, config: &ServerConfig) {
        // First: nothing else matters while no one can knock.
        self.daemon(config);
        self.watcher_programs(config);
        self.interfaces(config);
        self.capabilities(config);
        self.firewall_programs(config);
        self.knock_port(config);
        self.knock_range(config);
        self.watcher_user(config);
        self.clock(config);
        self.forwarding(config);
        self.services(config);
    }

    fn watcher_programs(&mut self, config: &ServerConfig) {
        self.file(Program::find(Program::WATCHER).map(drop));
        let Some(legacy) = &config.legacy else { return };
        for (name, path) in Program::LEGACY_WATCHERS.into_iter().zip([&legacy.knockd, &legacy.fwknop]) {
            if path.is_some() {
                self.file(Program::find(name).map(drop));
            }
        }
    }

    fn interfaces(&mut self, config: &ServerConfig) {
        let Interfaces::Named(names) = &config.interfaces else { return };
        for name in names {
            let reason = match host::link(name) {
                LinkState::Up if host::addresses_of(name).iter().all(is_link_local) => {
                    let message =
                        format!("server.interfaces: {name}: has no address that other hosts can reach");
                    let hint = format!("give it an address for knocks; see: ip addr show dev {name}");
                    self.warning(config, &["server", "interfaces"], message, &hint);
                    continue;
                }
                LinkState::Up => continue,
                LinkState::Missing => "no such interface",
                LinkState::Down => "the interface is down",
            };
            let hint = "ip link lists all interfaces; interfaces = [\"any\"] captures on all of them";
            self.problem(
                config,
                &["server", "interfaces"],
                format!("server.interfaces: {name}: {reason}"),
                hint,
            );
        }
    }

    fn capabilities(&mut self, config: &ServerConfig) {
        for need in config.needs() {
            let available = format!("{}: {} available", need.key, capabilities::names(&need.capabilities));
            let Some(missing) = need.missing() else {
                self.ok(available);
                continue;
            };
            let place: Vec<_> = missing.key.split('.').collect();
            let hint = capabilities::missing_hint(&missing.capabilities);
            self.problem(config, &place, capabilities::need_text(&missing), &hint);
        }
    }

    fn firewall_programs(&mut self, config: &ServerConfig) {
        if config.backend == BackendKind::Nftables && host::program("nft").is_none() {
            let message = "firewall.backend: the program nft is not installed".to_owned();
            self.problem(config, &["firewall", "backend"], message, "install it, e.g.: apt install nftables");
        }
        if config.backend == BackendKind::Iptables {
            self.iptables(config);
        }
        for kind in takeover::other_gates(config.backend) {
            let message = format!(
                "firewall.backend: the gate of another backend is also loaded and keeps its ports closed: {kind}"
            );
            let hint = match config.backend {
                BackendKind::None => format!("to remove it: {}", own_command("gate off")),
                _ => "to replace it with the configured gate: systemctl restart spa-knockd".to_owned(),
            };
            self.warning(config, &["firewall", "backend"], message, &hint);
        }
    }

    fn iptables(&mut self, config: &ServerConfig) {
        let place = ["firewall", "backend"];
        for name in ["iptables", "ip6tables"] {
            if host::program(name).is_none() && (name == "iptables" || host::has_ipv6()) {
                let message = format!("firewall.backend: the program {name} is not installed");
                self.problem(config, &place, message, "install it, e.g.: apt install iptables");
            }
        }
        if host::program("ipset").is_some() {
            return;
        }
        let hint = "install it, e.g.: apt install ipset";
        for (name, _) in config.actions.iter().filter(|(_, action)| action.opens_once()) {
            let message = format!("action.{name}.once: needs the program ipset, which is not installed");
            self.problem(config, &["action", name.as_str(), "once"], message, hint);
        }
        if config.failsafe.is_some() {
            let message = "firewall.failsafe: needs the program ipset, which is not installed".to_owned();
            self.problem(config, &["firewall", "failsafe"], message, hint);
        }
        let message =
            "firewall.backend: the program ipset is not installed: without a daemon, grants do not expire";
        self.warning(config, &place, message.to_owned(), hint);
    }

    /// Warns if the gate is on although no daemon accepts knocks.
    fn daemon(&mut self, config: &ServerConfig) {
        if GateState::is_on_in(&config.state_dir) && !control::is_open(&config.control) {
            let message = "the daemon is not running, but the gate is on: no knock is accepted".to_owned();
            let hint =
                format!("systemctl start spa-knockd, or {} for one address", own_command("let-in ADDRESS"));
            self.warning(config, &["server"], message, &hint);
        }
    }

    fn knock_port(&mut self, config: &ServerConfig) {
        let programs = host::programs_on_udp(config.port);
        // The daemon itself may be running; without root, its name may be hidden.
        let is_ours = |name: &str| name == "spa-knockd" || (name == "?" && control::is_open(&config.control));
        let others: Vec<String> = programs.into_iter().filter(|name| !is_ours(name)).collect();
        if others.is_empty() {
            self.ok(format!("port: udp/{} is free or used by the daemon", config.port));
            return;
        }
        let message = format!("server.port: udp/{} is used by {}", config.port, others.join(", "));
        self.problem(
            config,
            &["server", "port"],
            message,
            "choose another port, here and in the clients' keys",
        );
    }

    /// Warns of other uses of the knock range. Port sequences still work, but other packets count as port hits.
    fn knock_range(&mut self, config: &ServerConfig) {
        let Some(knock_range) = config.ports else { return };
        let place = ["ports", "low"];
        let hint = "choose another low, here and in the clients' --ports-low";
        let local = host::sysctl("net.ipv4.ip_local_port_range").unwrap_or_default();
        let bounds: Vec<u16> = local.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        if let [first, last] = *bounds
            && first <= knock_range.high()
            && knock_range.low() <= last
        {
            let message = format!(
                "ports: the knock range {knock_range} overlaps the local ports of this host's own connections ({first}-{last})"
            );
            self.warning(config, &place, message, hint);
        }
        let listening = proc_net::listening().unwrap_or_default();
        // The knock port is the daemon's own.
        let within = |(_, address): &&(Protocol, SocketAddr)| {
            knock_range.contains(address.port()) && address.port() != config.port
        };
        if let Some((protocol, address)) = listening.iter().find(within) {
            let service = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            let port = address.port();
            let message = format!(
                "ports: a service listens on {service}/{port}, which is in the knock range {knock_range}"
            );
            self.warning(config, &place, message, hint);
        }
    }

    fn watcher_user(&mut self, config: &ServerConfig) {
        if !host::has_user(&config.user) {
            let message =
                format!("server.user: user {} does not exist: the watcher runs as nobody", config.user);
            self.warning(config, &["server", "user"], message, &host::command_for_user(&config.user));
        }
    }

    fn clock(&mut self, config: &ServerConfig) {
        let (message, hint) = match clock_sync::of_clock() {
            ClockSync::Synchronized(by) => return self.ok(format!("clock: synchronized, according to {by}")),
            ClockSync::Unsynchronized => (
                "clock: not synchronized".to_owned(),
                format!(
                    "knocks are accepted only within {}; to synchronize the clock: timedatectl set-ntp true",
                    written(config.window)
                ),
            ),
            ClockSync::Unknown => (
                "clock: cannot determine whether it is synchronized".to_owned(),
                format!(
                    "make sure that chrony, ntpd or a similar service keeps it within {}",
                    written(config.window)
                ),
            ),
        };
        self.warning(config, &["server", "window"], message, &hint);
    }

    /// Checks that the kernel forwards packets to the targets of actions and stanzas, and has a route to them.
    fn forwarding(&mut self, config: &ServerConfig) {
        for (name, action) in &config.actions {
            let place = ["action", name.as_str(), "forward"];
            self.forward_targets(config, &place, &place.join("."), &action.parts);
        }
        for (name, parts) in self.legacy_forwards.clone() {
            self.forward_targets(config, &["legacy", "fwknop"], &name, &parts);
        }
    }

    fn forward_targets(&mut self, config: &ServerConfig, place: &[&str], name: &str, parts: &[ActionPart]) {
        let targets = parts.iter().flat_map(|part| match part {
            ActionPart::Forward { to, .. } => to.as_slice(),
            _ => &[],
        });
        let targets: BTreeSet<IpAddr> = targets.map(SocketAddr::ip).collect();
        for target in targets.into_iter().filter(|ip| !ip.is_unspecified()) {
            if let Some(parameter) = host::forwarding_off(target) {
                let message = format!("{name}: {parameter} is 0, so no packet reaches {target}");
                self.problem(config, place, message, &host::forwarding_hint(parameter));
            }
            if !host::has_route(target) {
                let message = format!("{name}: this host has no route to {target}");
                self.warning(config, place, message, &format!("ip route get {target}"));
            }
        }
    }

    /// Warns of protected ports that no service listens on: a grant for them has no effect.
    fn services(&mut self, config: &ServerConfig) {
        if config.backend == BackendKind::None {
            return;
        }
        let Ok(listening) = proc_net::listening() else { return };
        let stanzas = self.legacy_forwards.iter().flat_map(|(_, parts)| parts);
        let parts = config.actions.values().flat_map(|action| &action.parts).chain(stanzas);
        let forwarded: Vec<PortRange> = parts.filter_map(forwarded_port).collect();
        let of = |ports: PortRange| {
            let (first, last) = ports.bounds();
            listening.iter().filter(move |(protocol, address)| {
                *protocol == ports.protocol() && (first..=last).contains(&address.port())
            })
        };
        for ports in
            config.protect.iter().filter(|ports| !forwarded.iter().any(|other| other.overlap(**ports)))
        {
            let message = match of(*ports).map(|(_, address)| address.ip()).max_by_key(|ip| !ip.is_loopback())
            {
                None => format!("firewall.protect: no service listens on {ports}"),
                Some(ip) if ip.is_loopback() => {
                    format!("firewall.protect: the service on {ports} listens only on {ip}")
                }
                Some(_) => continue,
            };
            let flag = match ports.protocol() {
                Protocol::Tcp => "t",
                Protocol::Udp => "u",
            };
            let hint =
                format!("a grant has no effect; start the service, or check its address: ss -ln{flag}p");
            self.warning(config, &["firewall", "protect"], message, &hint);
        }
    }
}

/// Whether an address is valid only together with an interface.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The port that is forwarded.
fn forwarded_port(part: &ActionPart) -> Option<PortRange> {
    match part {
        ActionPart::Forward { port: door, .. } => Some((*door).into()),
        _ => None,
    }
}
