//! The checked values of `spa-knockd.toml` and its client files.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "fleet")]
use super::Problem;
use super::{FleetStore, ValueLocations};
use crate::capture::{CaptureKind, PacketLog};
use crate::firewall::{Failsafe, FirewallMode, HealthPort};
use spa_knock_core::auth::{Action, ActionPart, ClientRules, KeyLimit, Touch};
use spa_knock_core::crypto::ssh::PublicKey;
use spa_knock_core::knock::{
    ActionName, ClientName, KnockRange, PortRange, PortSpec, Prefix, Protocol, ProtocolVersion, ServerId,
    Timestamp,
};

/// A checked configuration. It names the key files, which are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// The server id that knocks are bound to.
    pub id: ServerId,
    /// The address that clients connect to; new key files contain it.
    pub address: Option<String>,
    /// The interfaces on which knocks are captured.
    pub interfaces: Interfaces,
    /// How knocks are captured.
    pub capture: CaptureKind,
    /// The knock port.
    pub port: u16,
    /// The knock range of port sequences; none = disabled. Requires capture `pcap` or a packet log.
    pub ports: Option<KnockRange>,
    /// The largest accepted difference between a knock's timestamp and the server's clock; 1 s to 10 min.
    pub window: Duration,
    /// Whether clients that request a reply get one.
    pub reply: bool,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The directory of the key files.
    pub keys_dir: PathBuf,
    /// The path of the control socket.
    pub control: PathBuf,
    /// Where metrics are served over HTTP; none = disabled.
    pub metrics: Option<MetricsPlace>,
    /// Where health checks of load balancers are served over HTTP; none = disabled.
    pub health: Option<HealthSettings>,
    /// The limit of processed knocks per key, unless the client has its own limit.
    pub key_limit: KeyLimit,
    /// The user of the watcher process.
    pub user: String,
    /// The audit log.
    pub audit: AuditSettings,
    /// The firewall backend.
    pub backend: BackendKind,
    /// Whether the kernel drops datagrams to the knock port without a live hint. Only with capture `udp` and nftables.
    pub hint_filter: bool,
    /// How the protected ports are closed.
    pub mode: FirewallMode,
    /// The ports that only a grant opens.
    pub protect: Vec<PortRange>,
    /// Ports of this host that other rules forward (e.g. to containers) and that only a grant opens.
    pub published: Vec<PortRange>,
    /// The addresses that the kernel admits after the daemon has been dead for a configured time.
    pub failsafe: Option<Failsafe>,
    /// The log from which packets of port sequences and knock sequences are read; none = they are captured.
    pub packet_log: Option<PacketLog>,
    /// knockd's knock sequences and fwknop's packets; none = disabled.
    pub legacy: Option<LegacyConfig>,
    /// What servers that share this one's id and keys share besides; none = no server shares them.
    pub fleet: Option<FleetStore>,
    /// The actions by name.
    pub actions: BTreeMap<ActionName, Action>,
    /// The clients by name.
    pub clients: BTreeMap<ClientName, ClientEntry>,
    /// The problems of clients of the fleet that this server hence leaves out.
    #[cfg(feature = "fleet")]
    pub left_out: Vec<Problem>,
    /// The location of each key, for problems that are found later.
    pub places: ValueLocations,
}

impl ServerConfig {
    /// All ports that only a grant opens.
    pub fn guarded(&self) -> impl Iterator<Item = &PortRange> {
        self.protect.iter().chain(&self.published)
    }

    /// The ports of this host that the gate's rules cover, without duplicates: those in `protect` and, in mode `mark`,
    /// also those that an action opens.
    #[must_use]
    pub fn gated(&self) -> Vec<PortRange> {
        let mut gated = self.protect.clone();
        if !matches!(self.mode, FirewallMode::Mark(_)) {
            return gated;
        }
        for part in self.actions.values().flat_map(|action| &action.parts) {
            let opened = match part {
                ActionPart::Open { ports, .. } | ActionPart::OpenArgument { allowed: ports, .. } => {
                    ports.clone()
                }
                ActionPart::Forward { port, .. } => vec![PortRange::from(*port)],
                ActionPart::Close(_) | ActionPart::Run { .. } => Vec::new(),
            };
            for ports in opened {
                if !gated.iter().any(|known| known.contain(ports)) {
                    gated.push(ports);
                }
            }
        }
        gated
    }
}

/// The values that commands can use even if the rest of the config is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The directory of the key files.
    pub keys_dir: PathBuf,
    /// The path of the control socket.
    pub control: PathBuf,
    /// The firewall backend.
    pub backend: BackendKind,
}

/// knockd's knock sequences, in addition to authenticated knocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyConfig {
    /// The path of the knockd.conf that defines the doors; not read yet.
    pub knockd: Option<PathBuf>,
    /// The path of fwknop's access.conf; not read yet.
    pub fwknop: Option<PathBuf>,
}

/// The interfaces on which knocks are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interfaces {
    /// All interfaces.
    Any,
    /// These interfaces; at least one. Each name has 1 to 15 bytes without `/` and white space.
    Named(Vec<String>),
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsPlace {
    /// On a loopback address.
    Tcp(SocketAddr),
    /// On a Unix socket; an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

impl fmt::Display for MetricsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The health checks of load balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// Where they are served; the port is not 0.
    pub address: SocketAddr,
    /// The addresses that the checks come from; at least one, without overlaps.
    pub from: Vec<Prefix>,
}

impl HealthSettings {
    /// The port, and who reaches it.
    #[must_use]
    pub fn port(&self) -> HealthPort {
        HealthPort { port: self.address.port(), from: self.from.clone() }
    }

    /// The port with its protocol, as a range; none for port 0.
    #[must_use]
    pub fn tcp(&self) -> Option<PortRange> {
        PortSpec::new(Protocol::Tcp, self.address.port()).map(PortRange::from)
    }
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where records are written.
    pub to: Audit,
    /// The size in bytes at which a file is rotated; at least 64 KiB.
    pub size: u64,
    /// The number of files, including the current one; 2 to 100.
    pub files: u32,
    /// Whether knocks are refused while the audit log cannot be written.
    pub required: bool,
}

/// Where audit records are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// To this file.
    File(PathBuf),
    /// To standard error, which systemd stores in its journal.
    Journal,
    /// Nowhere.
    Off,
}

/// The firewall backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// A separate nftables table.
    Nftables,
    /// Separate chains in iptables and ip6tables, with ipset if available.
    Iptables,
    /// No firewall: actions only run commands.
    None,
}

/// A configured client whose key file is not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEntry {
    /// The key file.
    pub key: PathBuf,
    /// The file with the seed of its one-time passwords.
    pub otp: Option<PathBuf>,
    /// The file that defines it: the main config or a file in `clients.d`.
    pub defined_in: PathBuf,
    /// The key before the last rotation, and the time until which it is valid.
    pub previous: Option<PreviousKey>,
    /// The SSH key that must sign its knocks; none for a client of protocol version 1.
    pub signing: Option<SigningEntry>,
    /// Its allowed actions and limits.
    pub rules: ClientRules,
}

/// The SSH key of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningEntry {
    /// The public key.
    pub public_key: PublicKey,
    /// What a FIDO device must state.
    pub touch: Touch,
}

/// A key that has been replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousKey {
    /// The key file.
    pub key: PathBuf,
    /// When it stops being valid.
    pub until: Timestamp,
    /// The SSH key that must sign knocks with it, if it is not the client's current one.
    pub public_key: Option<PublicKey>,
}

impl ClientEntry {
    /// The version of the protocol in which the client's keys are used.
    #[must_use]
    pub const fn version(&self) -> ProtocolVersion {
        if self.signing.is_some() { ProtocolVersion::V2 } else { ProtocolVersion::V1 }
    }
}
