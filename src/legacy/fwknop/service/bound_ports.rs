//! The ports that the keeper holds: a UDP socket, if packets are not captured, and the TCP port that accepts connections.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::console::AdminError;
use crate::legacy::fwknop::tcp_port::AcceptingPort;
use crate::legacy::fwknop::watcher_process::FwknopWatchConfig;
use crate::os::files;
use crate::os::net::udp::{ReceiveMode, UdpPort};
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// The ports, each with its number.
#[derive(Default)]
pub(super) struct BoundPorts {
    udp: Option<(u16, UdpPort)>,
    tcp: Option<(u16, AcceptingPort)>,
}

/// The numbers of the ports that a config needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeededPorts {
    udp: Option<u16>,
    tcp: Option<u16>,
}

impl NeededPorts {
    /// The ports for these settings.
    pub(super) fn of(watch_config: &FwknopWatchConfig, tcp: Option<u16>) -> Self {
        let sources = &watch_config.sources;
        let udp = sources.ports.udp.as_ref().filter(|_| sources.socket).map(|ports| *ports.start());
        Self { udp, tcp }
    }
}

impl BoundPorts {
    /// Opens those that are needed and not open yet.
    ///
    /// # Errors
    /// If a port is in use, or the system refuses.
    pub(super) fn open_missing(&self, needed: NeededPorts) -> Result<Self, AdminError> {
        let failure = |kind: &str, port: u16, error: std::io::Error| {
            AdminError::run(format_args!(
                "{kind} port {port}: {}\nhint: find the process that uses it with 'ss -lnp sport = :{port}'",
                files::io_error_text(&error)
            ))
        };
        let mut opened = Self::default();
        if let Some(port) = needed.udp.filter(|_| self.udp_number() != needed.udp) {
            let bound = UdpPort::bind(port, ReceiveMode::Received);
            opened.udp = Some((port, bound.map_err(|error| failure("UDP", port, error))?));
        }
        if let Some(port) = needed.tcp.filter(|_| self.tcp_number() != needed.tcp) {
            let bound = AcceptingPort::open(port);
            opened.tcp = Some((port, bound.map_err(|error| failure("TCP", port, error))?));
        }
        Ok(opened)
    }

    /// Adds opened ports, and closes those that are not needed.
    pub(super) fn replace(&mut self, opened: Self, needed: NeededPorts) {
        let Self { udp, tcp } = std::mem::take(self);
        self.udp = opened.udp.or(udp).filter(|(port, _)| needed.udp == Some(*port));
        self.tcp = opened.tcp.or(tcp).filter(|(port, _)| needed.tcp == Some(*port));
    }

    /// A handle to the UDP socket for the watcher, if there is one: of `opened`, or else of these.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn socket(&self, opened: Option<&Self>) -> Result<Option<OwnedFd>, String> {
        let udp = opened.and_then(|opened| opened.udp.as_ref()).or(self.udp.as_ref());
        udp.map(|(_, port)| port.share()).transpose().map_err(|error| files::io_error_text(&error))
    }

    /// Accepts and closes connections.
    pub(super) fn run_due(&mut self, now: Steady) {
        if let Some((_, port)) = &mut self.tcp {
            port.run_due(now);
        }
    }

    fn udp_number(&self) -> Option<u16> {
        self.udp.as_ref().map(|(port, _)| *port)
    }

    fn tcp_number(&self) -> Option<u16> {
        self.tcp.as_ref().map(|(port, _)| *port)
    }
}

impl Polled for BoundPorts {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        if let Some((_, port)) = &self.tcp {
            port.fds(out);
        }
    }

    fn deadline(&self) -> Option<Steady> {
        self.tcp.as_ref().and_then(|(_, port)| port.deadline())
    }
}
