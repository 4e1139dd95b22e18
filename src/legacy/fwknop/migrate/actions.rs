//! The actions that a stanza's rights become.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::command::{self, argv};
use crate::config::{quoted, written};
use spa_knock_core::knock::{PortRange, Protocol};
use spa_knock_fwknop::{ConfigProblem, Cycle, Port, StanzaOutline, Transport};

/// How long a command may run. fwknopd has no limit; this is the largest `timeout` of an action.
const COMMAND_MAX: Duration = Duration::from_secs(3_600);

/// An action without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedAction {
    /// The beginning of its name.
    pub(super) stem: String,
    /// The keys of its table.
    pub(super) body: String,
    /// Whether it needs the firewall.
    pub(super) opens: bool,
}

/// Collects the actions of one stanza, and what is not translated.
pub(super) struct StanzaTranslation<'a> {
    stanza: &'a StanzaOutline,
    pub(super) remarks: Vec<ConfigProblem>,
}

impl<'a> StanzaTranslation<'a> {
    pub(super) const fn new(stanza: &'a StanzaOutline) -> Self {
        Self { stanza, remarks: Vec::new() }
    }

    /// The actions that have the stanza's rights; none if it cannot be translated.
    pub(super) fn actions(&mut self) -> Vec<PlannedAction> {
        self.remark_what_is_left_out();
        let stanza = self.stanza;
        if let Some(cycle) = &stanza.cycle {
            return self.cycle(cycle);
        }
        if stanza.commands.is_some() {
            let name = if stanza.has("ENABLE_CMD_EXEC") { "ENABLE_CMD_EXEC" } else { "ENABLE_CMD_SUDO_EXEC" };
            self.remark(name, "clients cannot send commands; add an action with `run` for each command");
        }
        let ports = self.ports();
        if ports.is_empty() {
            self.remark("RESTRICT_PORTS", "left out: no port remains");
            return Vec::new();
        }
        if stanza.nat.forward_all && stanza.nat.to.is_some() {
            self.remark(
                "FORWARD_ALL",
                "left out: an action forwards single ports; add one with `forward` for each",
            );
            return Vec::new();
        }
        match stanza.nat.to {
            Some(to) => self.forward(to, &ports),
            None => vec![self.open(&ports)],
        }
    }

    fn open(&mut self, ports: &[PortRange]) -> PlannedAction {
        let list: Vec<String> = ports.iter().map(|ports| format!("\"{ports}\"")).collect();
        let list = list.join(", ");
        let (stem, what) = match ports {
            [port] if self.stanza.open_ports.is_some() => {
                (format!("open-{}", dashed(*port)), format!("open = [{list}]\n"))
            }
            _ => {
                if self.stanza.open_ports.is_some() {
                    self.remark("OPEN_PORTS", "the client names one of the ports with each knock");
                }
                ("open-port".to_owned(), format!("open = \"argument\"\nallow-ports = [{list}]\n"))
            }
        };
        let term = term(self.stanza.timeout, self.stanza.timeout_max);
        PlannedAction { stem, body: format!("{what}{term}"), opens: true }
    }

    fn forward(&mut self, (host, number): (Ipv4Addr, u16), ports: &[PortRange]) -> Vec<PlannedAction> {
        if self.stanza.nat.no_destination {
            self.remark("DISABLE_DNAT", "left out: an action with `forward` always changes the destination");
            return Vec::new();
        }
        if host.is_loopback() || host.is_unspecified() || host.is_multicast() {
            self.remark("FORCE_NAT", "left out: the target is not another host");
            return Vec::new();
        }
        if self.stanza.open_ports.is_none() {
            self.remark(
                "FORCE_NAT",
                "left out: an action forwards single ports; list them in OPEN_PORTS and migrate again",
            );
            return Vec::new();
        }
        let term = term(self.stanza.timeout, self.stanza.timeout_max);
        let action = |port: &PortRange| PlannedAction {
            stem: format!("forward-{}", dashed(*port)),
            body: format!("forward = {{ from = \"{port}\", to = \"{host}:{number}\" }}\n{term}"),
            opens: true,
        };
        ports.iter().map(action).collect()
    }

    /// `run` and `undo`. An action whose commands contain the port is repeated for each port of `OPEN_PORTS`.
    fn cycle(&mut self, cycle: &Cycle) -> Vec<PlannedAction> {
        let open = command::needs(&cycle.open);
        let close =
            cycle.close.as_ref().map_or(Ok(command::CommandNeeds::default()), |close| command::needs(close));
        let (open, close) = match (open, close) {
            (Ok(open), Ok(close)) => (open, close),
            (Err(variable), _) => return self.leave_out("CMD_CYCLE_OPEN", variable),
            (_, Err(variable)) => return self.leave_out("CMD_CYCLE_CLOSE", variable),
        };
        let ports: Vec<Option<Port>> = match (open.port || close.port, &self.stanza.open_ports) {
            (false, _) => vec![None],
            (true, Some(ports)) => ports.iter().copied().map(Some).collect(),
            (true, None) => {
                self.remark(
                    "CMD_CYCLE_OPEN",
                    "left out: it contains $PORT or $PROTO; list the ports in OPEN_PORTS and migrate again",
                );
                return Vec::new();
            }
        };
        self.remark(
            "CMD_CYCLE_OPEN",
            &format!(
                "commands had no time limit; each is now killed after {} (see `timeout`)",
                written(COMMAND_MAX)
            ),
        );
        let timer = match &cycle.close {
            Some(_) => Some(cycle.timer),
            None if open.duration => {
                self.remark(
                    "CMD_CYCLE_OPEN",
                    "{seconds} is FW_ACCESS_TIMEOUT if the client requests no other time",
                );
                Some(self.stanza.timeout)
            }
            None => None,
        };
        let body = |port: Option<Port>| {
            let mut body =
                format!("run = {}\ntimeout = {}\n", argv(&cycle.open, port), quoted(&written(COMMAND_MAX)));
            if let Some(close) = &cycle.close {
                body.push_str(&format!("undo = {}\n", argv(close, port)));
            }
            if let Some(timer) = timer {
                body.push_str(&term(timer, self.stanza.timeout_max));
            }
            body
        };
        let stem = |port: Option<Port>| match port.and_then(range) {
            Some(port) => format!("run-{}", dashed(port)),
            None => "run".to_owned(),
        };
        ports
            .into_iter()
            .map(|port| PlannedAction { stem: stem(port), body: body(port), opens: false })
            .collect()
    }

    /// The ports that a packet can ask for.
    fn ports(&self) -> Vec<PortRange> {
        let restricted = |port: &Port| self.stanza.restrict_ports.contains(port);
        match &self.stanza.open_ports {
            Some(open) => {
                let mut ports: Vec<PortRange> =
                    open.iter().filter(|port| !restricted(port)).copied().filter_map(range).collect();
                ports.sort_unstable();
                ports.dedup();
                ports
            }
            None => [(Protocol::Tcp, Transport::Tcp), (Protocol::Udp, Transport::Udp)]
                .into_iter()
                .flat_map(|(protocol, transport)| self.all_except_restricted(protocol, transport))
                .collect(),
        }
    }

    fn all_except_restricted(&self, protocol: Protocol, transport: Transport) -> Vec<PortRange> {
        let mut numbers: Vec<u16> = self
            .stanza
            .restrict_ports
            .iter()
            .filter(|port| port.transport == transport)
            .map(|port| port.number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranges = Vec::new();
        let mut first = Some(1_u16);
        for number in numbers {
            ranges.extend(
                first.and_then(|first| PortRange::between(protocol, first, number.saturating_sub(1))),
            );
            first = number.checked_add(1);
        }
        ranges.extend(first.and_then(|first| PortRange::between(protocol, first, u16::MAX)));
        ranges
    }

    fn remark_what_is_left_out(&mut self) {
        let stanza = self.stanza;
        if !stanza.sources.are_any() {
            self.remark("SOURCE", "not translated; anyone who has the key can knock from any address");
        }
        if !stanza.destinations.are_any() {
            self.remark("DESTINATION", "not translated; a knock can be sent to any address of this host");
        }
        for name in ["FORCE_SNAT", "FORCE_MASQUERADE"].into_iter().filter(|name| stanza.has(name)) {
            self.remark(name, "not translated; the target sees the client's address");
        }
    }

    fn leave_out(&mut self, name: &str, variable: &str) -> Vec<PlannedAction> {
        let instead = if variable == "TIMEOUT" { "; $CLIENT_TIMEOUT is the time in seconds" } else { "" };
        self.remark(name, &format!("left out: ${variable} has no equivalent{instead}"));
        Vec::new()
    }

    fn remark(&mut self, name: &str, text: &str) {
        let place = self.stanza.place_of(name).clone();
        self.remarks.push(ConfigProblem { place, reason: format!("{name}: {text}"), hint: None });
    }
}

fn term(seconds: u32, max: u32) -> String {
    let text = |seconds: u32| quoted(&written(Duration::from_secs(seconds.into())));
    match max > seconds {
        true => format!("for = {}\nmax = {}\n", text(seconds), text(max)),
        false => format!("for = {}\n", text(seconds)),
    }
}

fn range(port: Port) -> Option<PortRange> {
    let protocol = match port.transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    PortRange::between(protocol, port.number, port.number)
}

/// A port as part of a name.
fn dashed(ports: PortRange) -> String {
    ports.to_string().replace('/', "-")
}
