//! Reads `[server]`, `[ports]`, `[legacy]` and `[firewall]`: where the daemon listens, its paths, and the ports it
//! closes.

mod firewall;
mod health;
mod sequences;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::clients::GRANTS;
use super::document::{TomlTable, TomlValue};
use super::fleet::{FleetOutline, read_fleet};
use super::server::Outline;
use super::{
    Audit, AuditSettings, BackendKind, HealthSettings, Interfaces, KNOCK_PORT, LegacyConfig, MetricsPlace,
    ServerConfig, ValueLocations,
};
use crate::capture::{CaptureKind, PacketLog};
use crate::firewall::{Failsafe, FirewallMode, PacketMark};
pub(super) use firewall::read_ports;
use firewall::{
    open_knock_port, read_backend, read_failsafe, read_hint_filter, read_mode, read_published,
    without_knock_port,
};
use health::read_health;
use sequences::{read_legacy, read_packet_log, read_ports_section};
use spa_knock_core::auth::{Action, KeyLimit};
use spa_knock_core::crypto::is_host;
use spa_knock_core::knock::{ActionName, KnockRange, PortRange, ServerId};

const KEYS_DIR: &str = "/etc/spa-knock/keys";
const STATE_DIR: &str = "/var/lib/spa-knock";
const CONTROL: &str = "/run/spa-knock/control.sock";
const AUDIT: &str = "/var/log/spa-knock/audit.jsonl";
/// The default size of an audit log file in bytes.
const AUDIT_SIZE: u64 = 64 << 20;
/// The allowed sizes of an audit log file in bytes.
const AUDIT_SIZES: RangeInclusive<u64> = (64 << 10)..=(1 << 40);
/// The default number of audit log files.
const AUDIT_FILES_USUAL: u32 = 4;
/// The allowed numbers of audit log files.
const AUDIT_FILES: RangeInclusive<u32> = 2..=100;
/// The default user of the watcher process.
pub const USER: &str = "spa-knock";
/// The default window.
const WINDOW: Duration = Duration::from_secs(30);
/// The allowed windows. Clocks are not accurate enough for less than 1 s; with more than 10 min, an intercepted knock
/// would remain valid for too long.
const WINDOWS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// The kernel's IFNAMSIZ without the final NUL.
const INTERFACE_MAX: usize = 15;
/// The key for the limit of knocks per key, in `[server]` and in a client.
pub(super) const KEY_LIMIT: &str = "per-key-limit";
/// The allowed bursts. Fewer would block a client behind NAT that knocks at two addresses of a server.
const BURSTS: RangeInclusive<u32> = 8..=100_000;
/// The longest user name that useradd(8) accepts.
const USER_MAX: usize = 32;

/// The values of the sections. Each invalid value is replaced by its default, and a problem is reported.
pub(super) struct Sections {
    id: Option<ServerId>,
    address: Option<String>,
    interfaces: Interfaces,
    capture: CaptureKind,
    port: u16,
    ports: Option<KnockRange>,
    packet_log: Option<PacketLog>,
    window: Duration,
    /// None: the default depends on the client's actions.
    pub(super) grants: Option<u32>,
    reply: bool,
    state_dir: PathBuf,
    pub(super) keys_dir: PathBuf,
    control: PathBuf,
    metrics: Option<MetricsPlace>,
    health: Option<HealthSettings>,
    key_limit: KeyLimit,
    user: String,
    audit: AuditSettings,
    pub(super) backend: BackendKind,
    hint_filter: bool,
    mode: FirewallMode,
    protect: Vec<PortRange>,
    published: Vec<PortRange>,
    failsafe: Option<Failsafe>,
    legacy: Option<LegacyConfig>,
    fleet: Option<FleetOutline>,
}

impl Sections {
    /// The values that commands can use even if the rest of the config is invalid.
    pub(super) fn outline(self) -> Outline {
        Outline {
            state_dir: self.state_dir,
            keys_dir: self.keys_dir,
            control: self.control,
            backend: self.backend,
        }
    }

    /// The config without clients; `None` if it has no server id.
    pub(super) fn into_config(
        self,
        actions: BTreeMap<ActionName, Action>,
        file: &Path,
    ) -> Option<ServerConfig> {
        Some(ServerConfig {
            id: self.id?,
            address: self.address,
            interfaces: self.interfaces,
            capture: self.capture,
            port: self.port,
            ports: self.ports,
            packet_log: self.packet_log,
            window: self.window,
            reply: self.reply,
            state_dir: self.state_dir,
            keys_dir: self.keys_dir,
            control: self.control,
            metrics: self.metrics,
            health: self.health,
            key_limit: self.key_limit,
            user: self.user,
            audit: self.audit,
            backend: self.backend,
            hint_filter: self.hint_filter,
            mode: self.mode,
            protect: self.protect,
            published: self.published,
            failsafe: self.failsafe,
            legacy: self.legacy,
            fleet: self.fleet.map(|fleet| fleet.beside(file)),
            actions,
            clients: BTreeMap::new(),
            #[cfg(feature = "fleet")]
            left_out: Vec::new(),
            places: ValueLocations::new(file),
        })
    }
}

pub(super) fn read_sections(root: &mut TomlTable<'_>) -> Sections {
    let mut server = root.table("server");
    let mut firewall = root.table("firewall");
    let backend = or(firewall.take("backend"), read_backend, BackendKind::Nftables);
    let mark = or(firewall.take("mark"), |value| value.parsed(), PacketMark::default());
    let mode = or(firewall.take("mode"), |value| read_mode(value, backend, mark), FirewallMode::Guard);
    let captures = [("pcap", CaptureKind::Pcap), ("udp", CaptureKind::Udp)];
    let id = server
        .require("id", "add id = \"NAME\" (the name that clients use for this server, e.g. its host name)");
    let interfaces = or(server.take("interfaces"), read_interfaces, Interfaces::Any);
    let capture = or(server.take("capture"), |value| value.choice(&captures), CaptureKind::Pcap);
    let ports = root.take("ports");
    let packet_log = read_packet_log(&mut server);
    let legacy = root.take("legacy").and_then(|value| read_legacy(&value, capture, packet_log.as_ref()));
    let port = or(server.take("port"), |value| value.integer(1..=u16::MAX), KNOCK_PORT);
    let knock_port = open_knock_port(capture, mode, port);
    let protect = or(
        firewall.take("protect"),
        |value| without_knock_port(value, read_ports(value), knock_port),
        Vec::new(),
    );
    let published = or(
        firewall.take("published"),
        |value| without_knock_port(value, read_published(value, mode), knock_port),
        Vec::new(),
    );
    let metrics = server.take("metrics").and_then(|value| read_metrics(&value));
    let health = read_health(&mut server, protect.iter().chain(&published), metrics.as_ref());
    let sections = Sections {
        id: id.and_then(|value| value.parsed()),
        address: server.take("address").and_then(|value| read_address(&value)),
        interfaces,
        capture,
        port,
        ports: ports.and_then(|value| read_ports_section(&value, capture, packet_log.as_ref())),
        packet_log,
        window: or(server.take("window"), |value| value.duration(WINDOWS), WINDOW),
        grants: server.take("grants").and_then(|value| value.integer(GRANTS)),
        reply: or(server.take("reply"), |value| value.flag(), true),
        state_dir: or(server.take("state_dir"), absolute_path, PathBuf::from(STATE_DIR)),
        keys_dir: or(server.take("keys_dir"), absolute_path, PathBuf::from(KEYS_DIR)),
        control: or(server.take("control"), absolute_path, PathBuf::from(CONTROL)),
        metrics,
        health,
        key_limit: or(server.take(KEY_LIMIT), read_key_limit, KeyLimit::default()),
        user: or(server.take("user"), read_user, USER.to_owned()),
        audit: read_audit(&mut server),
        backend,
        hint_filter: read_hint_filter(firewall.take("hint-filter"), capture, backend),
        mode,
        protect,
        published,
        failsafe: or(firewall.take("failsafe"), read_failsafe, None),
        legacy,
        fleet: root.take("fleet").and_then(|value| read_fleet(&value)),
    };
    server.finish();
    firewall.finish();
    sections
}

fn or<T>(value: Option<TomlValue<'_>>, read: impl FnOnce(&TomlValue<'_>) -> Option<T>, default: T) -> T {
    value.and_then(|value| read(&value)).unwrap_or(default)
}

fn read_interfaces(value: &TomlValue<'_>) -> Option<Interfaces> {
    let items = value.list()?;
    let mut names: Vec<String> = Vec::new();
    for item in &items {
        let name = item.text()?;
        let fits = (1..=INTERFACE_MAX).contains(&name.len());
        // The names also appear in firewall rules, so special characters are not allowed.
        if !fits || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@:-".contains(&b)) {
            item.problem("an interface name is 1 to 15 characters of A-Z, a-z, 0-9 and . _ @ : -", None);
            return None;
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if !names.iter().any(|name| name == "any") {
        return Some(Interfaces::Named(names));
    }
    if names.len() > 1 {
        value.problem("\"any\" means all interfaces and must be the only entry", None);
        return None;
    }
    Some(Interfaces::Any)
}

fn read_audit(server: &mut TomlTable<'_>) -> AuditSettings {
    let to = or(server.take("audit"), read_audit_target, Audit::File(PathBuf::from(AUDIT)));
    let size = or(server.take("audit-size"), |value| value.size(AUDIT_SIZES), AUDIT_SIZE);
    let files = or(server.take("audit-files"), |value| value.integer(AUDIT_FILES), AUDIT_FILES_USUAL);
    let required = server.take("audit-required");
    let is_required = required.as_ref().and_then(TomlValue::flag).unwrap_or(false);
    if let Some(required) = required.filter(|_| is_required && to == Audit::Off) {
        required
            .problem("no audit log is configured", Some("set audit = \"/var/log/spa-knock/audit.jsonl\""));
    }
    AuditSettings { to, size, files, required: is_required }
}

fn read_audit_target(value: &TomlValue<'_>) -> Option<Audit> {
    match value.text()? {
        "" => Some(Audit::Off),
        "journal" => Some(Audit::Journal),
        _ => absolute_path(value).map(Audit::File),
    }
}

/// Reads the address that clients connect to; new key files contain it.
fn read_address(value: &TomlValue<'_>) -> Option<String> {
    let text = value.text()?;
    if !is_host(text) {
        value.problem(
            "not a host name or address",
            Some("write it like \"bastion.example.org\" or \"203.0.113.7\""),
        );
        return None;
    }
    Some(text.to_owned())
}

fn read_metrics(value: &TomlValue<'_>) -> Option<MetricsPlace> {
    /// The longest path in a unix(7) address, without the final NUL.
    const PATH_MAX: usize = 107;
    if value.text()?.starts_with('/') {
        let path = absolute_path(value)?;
        if path.as_os_str().len() > PATH_MAX {
            value.problem("socket path is longer than 107 bytes", None);
            return None;
        }
        return Some(MetricsPlace::Unix(path));
    }
    let Ok(address) = value.text()?.parse::<SocketAddr>() else {
        let hint = "write it like \"127.0.0.1:9842\" or \"/run/spa-knock/metrics.sock\"";
        value.problem("neither an address with a port nor a path", Some(hint));
        return None;
    };
    if !address.ip().is_loopback() {
        value.problem(
            format_args!("{} is not a loopback address; metrics are served only to this host", address.ip()),
            Some("use \"127.0.0.1:9842\", and an encrypted tunnel or proxy for other hosts"),
        );
        return None;
    }
    if address.port() == 0 {
        value.problem("port must not be 0", None);
        return None;
    }
    Some(MetricsPlace::Tcp(address))
}

/// Reads `{ burst = 128, rate = "4/s" }`, in `[server]` or in a client.
pub(super) fn read_key_limit(value: &TomlValue<'_>) -> Option<KeyLimit> {
    let mut table = value.table()?;
    let burst = table.require("burst", "add burst = 128 (knocks accepted in one burst)");
    let rate = table.require("rate", "add rate = \"4/s\" (knocks accepted in the long run)");
    let burst = burst.and_then(|value| value.integer(BURSTS));
    let rate = rate.and_then(|value| value.parsed());
    table.finish();
    Some(KeyLimit::new(burst?, rate?))
}

fn read_user(value: &TomlValue<'_>) -> Option<String> {
    let name = value.text()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$');
    if !(1..=USER_MAX).contains(&name.len()) || name.starts_with('-') || !name.bytes().all(allowed) {
        value.problem("not a user name", None);
        return None;
    }
    Some(name.to_owned())
}

fn absolute_path(value: &TomlValue<'_>) -> Option<PathBuf> {
    let path = Path::new(value.text()?);
    if !path.is_absolute() {
        value.problem("not an absolute path", None);
        return None;
    }
    if path.components().any(|part| part == Component::ParentDir) {
        value.problem("path contains '..'", Some("write the path without '..'"));
        return None;
    }
    Some(path.to_owned())
}
