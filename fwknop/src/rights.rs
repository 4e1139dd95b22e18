//! The policy: the rights of an authentic packet, according to its stanza.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::config::{CommandRules, Cycle, NatRules, ServerSettings, Stanza};
use crate::packet::{Content, Message, NatTarget, Port, Transport};

/// What a packet is allowed to do; its values are what the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// Open ports of this host.
    Open {
        /// For this address.
        address: IpAddr,
        /// These ports.
        ports: Vec<Port>,
        /// For this time.
        seconds: u32,
    },
    /// Forward connections to another host, or to another port of this host.
    Forward {
        /// Of this address.
        address: Ipv4Addr,
        /// These ones, to there.
        forwarding: Forwarding,
        /// With this source address, unless they stay on this host.
        source: ForwardSource,
        /// For this time.
        seconds: u32,
    },
    /// Run a command that the packet contains.
    Command {
        /// The command line.
        command: String,
        /// The account that runs it.
        rules: CommandRules,
    },
    /// Run one command now and another one later.
    Cycle {
        /// The command that opens.
        open: String,
        /// The command that closes, and after how many seconds.
        close: Option<(String, u32)>,
    },
}

/// Which connections are forwarded, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Those to a port of this host, to another host.
    Port(Port, SocketAddrV4),
    /// Those to a port of this host, to another port of it.
    Local(Port, u16),
    /// All packets, to another host (`FORWARD_ALL`).
    Host(Ipv4Addr),
    /// Those to a port of another host, where they are going (`DISABLE_DNAT`).
    Direct(Port, Ipv4Addr),
    /// All packets, where they are going (`FORWARD_ALL` and `DISABLE_DNAT`).
    Everywhere,
}

/// The source address of forwarded connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardSource {
    /// Unchanged.
    Client,
    /// An address of this host (`FORCE_MASQUERADE`).
    Masquerade,
    /// This address (`FORCE_SNAT`).
    Address(Ipv4Addr),
}

/// Where and when a packet arrived. Forwarded headers such as `X-Forwarded-For` are the caller's to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Seconds since 1970.
    pub time: u64,
}

/// Why a packet may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Its source is not in `SOURCE`.
    #[error("the source is not in SOURCE")]
    Source,
    /// Its destination is not in `DESTINATION`.
    #[error("the destination is not in DESTINATION")]
    Destination,
    /// Its time is too far from the server's.
    #[error("the packet's time differs too much")]
    Age,
    /// It contains `0.0.0.0`, and the stanza requires an address.
    #[error("the packet contains no address, which REQUIRE_SOURCE_ADDRESS demands")]
    Address,
    /// It contains another user name.
    #[error("the user name is not that of REQUIRE_USERNAME")]
    User,
    /// It asks for a port that is not in `OPEN_PORTS`.
    #[error("a port is not in OPEN_PORTS")]
    OpenPorts,
    /// It asks for a port that is in `RESTRICT_PORTS`.
    #[error("a port is in RESTRICT_PORTS")]
    RestrictPorts,
    /// It contains a command.
    #[error("the stanza accepts no commands: ENABLE_CMD_EXEC is off, or CMD_CYCLE_OPEN is set")]
    Command,
    /// It asks to be forwarded.
    #[error("forwarding is off")]
    Forwarding,
    /// It asks to be forwarded to a host name: looking it up would delay all packets, and anyone who can forge the reply
    /// would choose the target.
    #[error("the NAT target is a host name, which is not looked up: send the IPv4 address, or set FORCE_NAT")]
    HostName,
    /// It asks to be forwarded, and came by IPv6.
    #[error("IPv6 is not forwarded")]
    ForwardV6,
    /// It asks to forward another address than its source: the keys of one stanza would lead another client's connections
    /// elsewhere.
    #[error("only the address that sends the packet is forwarded: send it from there, with `-s` or `-R`")]
    ForwardOther,
}

impl Stanza {
    /// The rights of a packet. The caller has verified and decrypted it with this stanza's keys, found it new, and the
    /// stanza not expired.
    ///
    /// # Errors
    /// The reason why it has none.
    pub fn rights(
        &self,
        server: &ServerSettings,
        message: &Message,
        arrival: Arrival,
    ) -> Result<Rights, Denial> {
        if !self.sources.contain(arrival.source) {
            return Err(Denial::Source);
        }
        if !self.destinations.contain(arrival.destination) {
            return Err(Denial::Destination);
        }
        if server.age_max.is_some_and(|max| message.time.abs_diff(arrival.time) > max.into()) {
            return Err(Denial::Age);
        }
        let address = match message.allow {
            Ipv4Addr::UNSPECIFIED if self.require_address => return Err(Denial::Address),
            Ipv4Addr::UNSPECIFIED => arrival.source,
            address => address.into(),
        };
        if self.user.as_ref().is_some_and(|user| *user != message.user) {
            return Err(Denial::User);
        }
        let seconds = match message.timeout {
            None | Some(0) => self.timeout,
            Some(seconds) => seconds.min(self.timeout_max),
        };
        let ports = match (&message.content, &self.cycle, &self.commands) {
            // A cycle needs the port that is asked for.
            (Content::Command(_), Some(_), _) | (Content::Command(_), _, None) => {
                return Err(Denial::Command);
            }
            (Content::Command(command), None, Some(rules)) => {
                return Ok(Rights::Command { command: command.clone(), rules: rules.clone() });
            }
            (Content::Access(ports) | Content::Nat(ports, _) | Content::LocalNat(ports, _), ..) => ports,
        };
        if let Some(cycle) = &self.cycle {
            return Ok(self.cycle(cycle, message, ports.first().copied(), address, arrival));
        }
        self.check_ports(ports)?;
        let rights = self.forward(server, message, address, ports, seconds)?;
        match rights {
            Rights::Forward { .. } if address != arrival.source => Err(Denial::ForwardOther),
            rights => Ok(rights),
        }
    }

    fn check_ports(&self, ports: &[Port]) -> Result<(), Denial> {
        if ports.iter().any(|port| self.restrict_ports.contains(port)) {
            return Err(Denial::RestrictPorts);
        }
        match &self.open_ports {
            Some(open) if !ports.iter().all(|port| open.contains(port)) => Err(Denial::OpenPorts),
            _ => Ok(()),
        }
    }

    fn forward(
        &self,
        server: &ServerSettings,
        message: &Message,
        address: IpAddr,
        ports: &[Port],
        seconds: u32,
    ) -> Result<Rights, Denial> {
        let requested = match &message.content {
            Content::Nat(_, target) if server.forwarding => Some((target.clone(), false)),
            Content::LocalNat(_, target) if server.local_nat => Some((target.clone(), true)),
            Content::Nat(..) | Content::LocalNat(..) => return Err(Denial::Forwarding),
            Content::Access(_) | Content::Command(_) => None,
        };
        let forced = self.nat.to.map(|(host, port)| (NatTarget { host: host.to_string(), port }, false));
        let target = forced.or(requested);
        // As fwknop has it: only the first port is forwarded.
        let (Some((target, is_local)), Some(&first)) = (target, ports.first()) else {
            return Ok(Rights::Open { address, ports: ports.to_vec(), seconds });
        };
        let IpAddr::V4(client) = address else { return Err(Denial::ForwardV6) };
        let host = target.host.parse::<Ipv4Addr>().map_err(|_| Denial::HostName)?;
        // If the destination is not changed, connections are made to the target's port.
        let behind = Port { number: target.port, ..first };
        let NatRules { forward_all, no_destination, .. } = self.nat;
        let forwarding = match (is_local, forward_all, no_destination) {
            (true, false, false) => Forwarding::Local(first, target.port),
            (true, ..) => return Ok(Rights::Open { address, ports: vec![behind], seconds }),
            (false, false, false) => Forwarding::Port(first, SocketAddrV4::new(host, target.port)),
            (false, true, false) => Forwarding::Host(host),
            (false, false, true) => Forwarding::Direct(behind, host),
            (false, true, true) => Forwarding::Everywhere,
        };
        Ok(Rights::Forward { address: client, forwarding, source: self.source(server), seconds })
    }

    /// A stanza's setting takes precedence over that of the server.
    fn source(&self, server: &ServerSettings) -> ForwardSource {
        match (self.nat.source, self.nat.masquerade, server.snat) {
            (Some(address), ..) | (None, false, Some(Some(address))) => ForwardSource::Address(address),
            (None, true, _) | (None, false, Some(None)) => ForwardSource::Masquerade,
            (None, false, None) => ForwardSource::Client,
        }
    }

    /// The packet's own timeout replaces the timer, up to `MAX_FW_TIMEOUT`, which fwknop does not apply here.
    fn cycle(
        &self,
        cycle: &Cycle,
        message: &Message,
        first: Option<Port>,
        address: IpAddr,
        arrival: Arrival,
    ) -> Rights {
        let timer = match message.timeout {
            None | Some(0) => cycle.timer,
            Some(seconds) => seconds.min(self.timeout_max),
        };
        let variables =
            Variables { address, arrival, first, end: message.time.saturating_add(timer.into()), timer };
        Rights::Cycle {
            open: variables.substitute(&cycle.open),
            close: cycle.close.as_ref().map(|close| (variables.substitute(close), timer)),
        }
    }
}

/// The variables of a command.
struct Variables {
    address: IpAddr,
    arrival: Arrival,
    /// The first port that the packet asks for.
    first: Option<Port>,
    /// When access ends, in seconds since 1970.
    end: u64,
    timer: u32,
}

impl Variables {
    /// Replaces `$NAME`. As fwknop does, an unknown name loses its `$`.
    fn substitute(&self, command: &str) -> String {
        let mut parts = command.split('$');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // The longest name that fits comes first.
            let names: [(&str, String); 8] = [
                ("CLIENT_TIMEOUT", self.timer.to_string()),
                ("PKT_SRC", self.arrival.source.to_string()),
                ("TIMEOUT", self.end.to_string()),
                ("PROTO", self.first.map_or("0", |port| protocol_number(port.transport)).to_owned()),
                ("PORT", self.first.map_or(0, |port| port.number).to_string()),
                ("SRC", self.address.to_string()),
                ("DST", self.arrival.destination.to_string()),
                ("IP", self.address.to_string()),
            ];
            match names.iter().find_map(|(name, value)| Some((value, part.strip_prefix(name)?))) {
                Some((value, rest)) => {
                    text.push_str(value);
                    text.push_str(rest);
                }
                None => text.push_str(part),
            }
        }
        text
    }
}

/// The numbers of the Internet's protocols.
const fn protocol_number(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "6",
        Transport::Udp => "17",
    }
}
