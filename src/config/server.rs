//! What `spa-knockd.toml` means, once every value has been checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::ValueLocations;
use crate::capture::{CaptureKind, PacketLog};
use crate::firewall::{Failsafe, FirewallMode};
use spa_knock_core::auth::{Action, ActionPart, ClientRules, KeyLimit};
use spa_knock_core::knock::{ActionName, ClientName, KnockRange, PortRange, ServerId, Timestamp};

/// A checked configuration. The keys are named, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// What knocks are bound to.
    pub id: ServerId,
    /// What clients connect to; new keys name it.
    pub address: Option<String>,
    /// Where knocks are looked for.
    pub interfaces: Interfaces,
    /// How they are seen.
    pub capture: CaptureKind,
    /// The knock port.
    pub port: u16,
    /// Where port sequences are looked for; nothing = nowhere. Then the capture is pcap.
    pub ports: Option<KnockRange>,
    /// How far a knock's time may be from ours; 1 s to 10 min.
    pub window: Duration,
    /// Whether clients that ask for an answer get one.
    pub reply: bool,
    /// Where the daemon keeps what must outlive it.
    pub state_dir: PathBuf,
    /// Where key files lie.
    pub keys_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// Where metrics are served over HTTP; nothing = nowhere.
    pub metrics: Option<MetricsPlace>,
    /// How many knocks of each key are looked at, unless its client has a limit of its own.
    pub key_limit: KeyLimit,
    /// The user that the watcher becomes.
    pub user: String,
    /// The audit log.
    pub audit: AuditSettings,
    /// What opens and closes ports.
    pub backend: BackendKind,
    /// Whose rules close the protected ports.
    pub mode: FirewallMode,
    /// The ports that only a grant opens.
    pub protect: Vec<PortRange>,
    /// Ports that lead inside by somebody else's rules, and that only a grant opens.
    pub published: Vec<PortRange>,
    /// Whom the kernel lets in when the daemon has been dead for a while.
    pub failsafe: Option<Failsafe>,
    /// The log that packets to the knock range and to doors are read from; nothing = they are captured.
    pub packet_log: Option<PacketLog>,
    /// Plain sequences; nothing = they are not looked at.
    pub legacy: Option<LegacyConfig>,
    /// The actions by name.
    pub actions: BTreeMap<ActionName, Action>,
    /// The clients by name.
    pub clients: BTreeMap<ClientName, ClientEntry>,
    /// Where each key stands, for what is found wrong later.
    pub places: ValueLocations,
}

impl ServerConfig {
    /// All ports that only a grant opens.
    pub fn guarded(&self) -> impl Iterator<Item = &PortRange> {
        self.protect.iter().chain(&self.published)
    }

    /// What the gate's rules for ports of this host are about, each once: what `protect` names and, in mode `mark`, also
    /// what an action opens.
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
                ActionPart::Forward { door, .. } => vec![PortRange::from(*door)],
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

/// The parts of a config that commands can use whatever else is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Where the daemon keeps what must outlive it.
    pub state_dir: PathBuf,
    /// Where key files lie.
    pub keys_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// What opens and closes ports.
    pub backend: BackendKind,
}

/// Plain sequences beside sealed knocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyConfig {
    /// The knockd.conf whose doors they open; named, not yet read.
    pub knockd: PathBuf,
}

/// Where knocks are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interfaces {
    /// Everywhere.
    Any,
    /// On these, by name; at least one, each 1 to 15 bytes without `/` and white space.
    Named(Vec<String>),
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsPlace {
    /// At a loopback address.
    Tcp(SocketAddr),
    /// At a Unix socket, by its absolute path of at most 107 bytes.
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

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where it goes.
    pub to: Audit,
    /// Bytes of a file before it is rotated; at least 64 KiB.
    pub size: u64,
    /// How many files there are, the current one included; 2 to 100.
    pub files: u32,
    /// Whether a knock that may not be recorded is refused.
    pub required: bool,
}

/// Where the audit log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// Appended to this file.
    File(PathBuf),
    /// To standard error, which systemd hands to its journal.
    Journal,
    /// Nowhere.
    Off,
}

/// What opens and closes ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// An nftables table of our own.
    Nftables,
    /// Chains of our own in iptables and ip6tables, with ipset where it is there.
    Iptables,
    /// Nothing: only commands run.
    None,
}

/// A client, with its key still in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEntry {
    /// The key file.
    pub key: PathBuf,
    /// The file of the seed that its one-time passwords come from.
    pub otp: Option<PathBuf>,
    /// The file that defines it: the config itself or one in `clients.d`.
    pub defined_in: PathBuf,
    /// The key that it had before this one, and until when it is good.
    pub previous: Option<PreviousKey>,
    /// What it may do.
    pub rules: ClientRules,
}

/// A key that has been replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousKey {
    /// The key file.
    pub key: PathBuf,
    /// From when on it is good for nothing.
    pub until: Timestamp,
}
