//! The record of the last loaded gate, in the state directory. A boot closes the gate again before the network is up,
//! without a daemon, a config or a key. Grants are not recorded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::established_connections;
use super::lock::lock_gate;
use super::state::GateState;
use crate::config::{self, BackendKind};
use crate::console::{AdminError, notice};
use crate::firewall::{
    Backend, Enforcement, Failsafe, FirewallError, FirewallMode, GateSpec, Iptables, Nftables,
};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::crypto::checksum_hex;
use spa_knock_core::knock::PortRange;

/// Two identical files: if a worn disk damages one, the other remains.
const FIRST: &str = "boot-gate";
const FILES: [&str; 2] = [FIRST, "boot-gate.copy"];
/// The version of the format.
const VERSION: u32 = 1;

/// The content of a file: a line of JSON, followed by its checksum.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BootRecord {
    version: u32,
    backend: BackendName,
    /// Whether our own rules close ports. If the administrator's rules do, there is nothing to restore.
    closes: bool,
    protect: Vec<String>,
    published: Vec<String>,
    silent_port: Option<u16>,
    failsafe: Option<FailsafeRecord>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FailsafeRecord {
    after_ms: u64,
    allow: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackendName {
    Nftables,
    Iptables,
    None,
}

impl BootRecord {
    fn of(backend: BackendKind, gate: &GateSpec) -> Self {
        // All fields are listed, so that a new field needs a decision here.
        let GateSpec {
            protect,
            published,
            mode,
            enforcement: _,
            failsafe,
            silent_port,
            // No daemon serves it at boot: the port is closed anyway.
            health: _,
            // Without a daemon, there are no hints.
            hinted_port: _,
            early: _,
            established: _,
            // Only with mode `mark`, which closes nothing.
            sessions: _,
        } = gate;
        Self {
            version: VERSION,
            backend: match backend {
                BackendKind::Nftables => BackendName::Nftables,
                BackendKind::Iptables => BackendName::Iptables,
                BackendKind::None => BackendName::None,
            },
            closes: *mode == FirewallMode::Guard,
            protect: protect.iter().map(ToString::to_string).collect(),
            published: published.iter().map(ToString::to_string).collect(),
            silent_port: *silent_port,
            failsafe: failsafe.as_ref().map(|failsafe| FailsafeRecord {
                after_ms: u64::try_from(failsafe.after.as_millis()).unwrap_or(u64::MAX),
                allow: failsafe.allow.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// The recorded gate; `None` if a value is invalid.
    fn gate(&self, enforcing: Enforcement) -> Option<GateSpec> {
        let ports =
            |texts: &[String]| texts.iter().map(|text| text.parse().ok()).collect::<Option<Vec<PortRange>>>();
        let failsafe = match &self.failsafe {
            None => None,
            Some(FailsafeRecord { after_ms, allow }) => Some(Failsafe {
                after: Duration::from_millis(*after_ms),
                allow: allow.iter().map(|prefix| prefix.parse().ok()).collect::<Option<_>>()?,
            }),
        };
        let (protect, published) = (ports(&self.protect)?, ports(&self.published)?);
        let is_guarded = |port: PortRange| protect.iter().chain(&published).any(|ports| ports.contain(port));
        let established = established_connections(is_guarded);
        Some(GateSpec {
            protect,
            published,
            enforcement: enforcing,
            failsafe,
            silent_port: self.silent_port,
            established,
            ..GateSpec::default()
        })
    }

    fn to_text(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{json}\nsum {}\n", sum(&json))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (json, last) = (lines.next()?, lines.next()?);
        let record: Self = serde_json::from_str(json).ok()?;
        let is_whole = last.strip_prefix("sum ") == Some(&sum(json)) && text.ends_with('\n');
        (is_whole && record.version == VERSION).then_some(record)
    }
}

fn sum(json: &str) -> String {
    checksum_hex(&[json.as_bytes()])
}

/// The writer of the record. It writes only changes.
#[derive(Default)]
pub(crate) struct BootGate {
    last: String,
}

impl BootGate {
    /// Records the loaded gate. A failure affects only the next boot.
    pub(crate) fn remember(&mut self, state_dir: &Path, backend: BackendKind, gate: &GateSpec) {
        let text = BootRecord::of(backend, gate).to_text();
        if text == self.last {
            return;
        }
        match write(state_dir, &text) {
            Ok(()) => self.last = text,
            Err(error) => {
                log::warn!(
                    "{error}\nuntil the file can be written, a boot closes the previously recorded ports"
                );
            }
        }
    }
}

fn write(state_dir: &Path, text: &str) -> Result<(), FileError> {
    for file in FILES.map(|name| state_dir.join(name)) {
        if !files::read_text(&file).is_ok_and(|current| current == text) {
            files::replace(&file, FileMode::Private, text.as_bytes())?;
        }
    }
    Ok(())
}

/// Reads the record; `None` if there are no files: an older version of the daemon closed the gate.
fn read(state_dir: &Path) -> Result<Option<BootRecord>, AdminError> {
    let paths = FILES.map(|name| state_dir.join(name));
    if !paths.iter().any(|path| files::exists(path)) {
        return Ok(None);
    }
    // A file that another user can change is not used: they could open ports by omitting them.
    let read = |file: &PathBuf| match files::read_trusted_text(file) {
        Ok(text) => BootRecord::parse(&text).ok_or_else(|| format!("{}: damaged", file.display())),
        Err(error) => Err(error.to_string()),
    };
    let [first, copy] = &paths;
    let problem = match read(first) {
        Ok(record) => return Ok(Some(record)),
        Err(problem) => problem,
    };
    match read(copy) {
        Ok(record) => {
            notice(format_args!("warning: {problem}\nusing its copy, {}", copy.display()));
            Ok(Some(record))
        }
        Err(other) => Err(AdminError::run(format_args!(
            "{problem}\n{other}\nthe ports to close are unknown: the gate stays as it is until the daemon is \
             started\nhint: to write both files again: systemctl restart spa-knockd"
        ))),
    }
}

/// The result of restoring the gate.
#[derive(Debug, PartialEq, Eq)]
enum RestoredGate {
    /// These ports are closed again.
    Closed(String),
    /// No port must be closed, for this reason.
    Nothing(String),
}

/// `spa-knockd restore-gate`: closes the gate as it was last closed, unless it is off or controlled by a daemon.
///
/// # Errors
/// When the gate must be closed but cannot be.
pub(crate) fn restore(config: &Path, state_dir: Option<&Path>) -> Result<(), AdminError> {
    let state_dir = state_dir.map_or_else(|| state_dir_of(config), Path::to_owned);
    match try_restore(&state_dir)? {
        RestoredGate::Closed(ports) => notice(format_args!("gate: {ports} closed without a grant")),
        RestoredGate::Nothing(reason) => notice(format_args!("{reason}; nothing to restore")),
    }
    Ok(())
}

/// Restores the gate for a daemon that cannot start because of its config or keys: closed ports must stay closed.
pub(crate) fn close_despite_config(config: &Path) {
    match try_restore(&state_dir_of(config)) {
        Ok(RestoredGate::Closed(ports)) => log::warn!("gate: {ports} closed, as in the last loaded gate"),
        Ok(RestoredGate::Nothing(_)) => {}
        Err(failure) => log::error!("gate: {}", failure.text()),
    }
}

/// The state directory that a config names; the default one if another user can change the config.
fn state_dir_of(config: &Path) -> PathBuf {
    let is_trusted = config::writers(config).is_empty();
    config::outline(if is_trusted { config } else { Path::new("") }).state_dir
}

fn try_restore(state_dir: &Path) -> Result<RestoredGate, AdminError> {
    let nothing = |reason: &str| Ok(RestoredGate::Nothing(reason.to_owned()));
    let gate_state = GateState::read_trusted(state_dir).unwrap_or_else(|error| {
        notice(format_args!("warning: {error}; closing the gate, because it may be on"));
        GateState::Closed
    });
    let enforcing = match gate_state {
        GateState::NeverClosed => return nothing("gate: never closed"),
        GateState::Open => return nothing("gate: off"),
        GateState::Closed => Enforcement::Permanent,
        GateState::Trial(until) => Enforcement::Trial(until.since(clock::boot())),
    };
    let Some(record) = read(state_dir)? else {
        let file = state_dir.join(FIRST);
        return Ok(RestoredGate::Nothing(format!(
            "warning: {}: no such file yet; the ports stay open until the daemon starts and writes it",
            file.display()
        )));
    };
    if !record.closes || record.backend == BackendName::None {
        return nothing("gate: the administrator's own rules close the ports");
    }
    let Ok(_lock) = lock_gate("stop it first") else {
        return nothing("gate: kept closed by a running daemon");
    };
    let gate = record
        .gate(enforcing)
        .ok_or_else(|| AdminError::run(format_args!("{}: invalid ports", state_dir.join(FIRST).display())))?;
    load(record.backend, state_dir, &gate).map_err(AdminError::run)?;
    Ok(RestoredGate::Closed([record.protect, record.published].concat().join(", ")))
}

fn load(backend: BackendName, state_dir: &Path, gate: &GateSpec) -> Result<(), FirewallError> {
    match backend {
        BackendName::Nftables => Nftables::open()?.load(gate),
        BackendName::Iptables => {
            Iptables::prime(&["filter", "mangle"]);
            let mut firewall = Iptables::open(state_dir)?;
            firewall.load(gate)?;
            // Without a daemon, nothing ends a grant that the kernel does not end by itself.
            firewall.suspend()
        }
        BackendName::None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> GateSpec {
        GateSpec {
            protect: vec!["tcp/22".parse().unwrap(), "udp/500-510".parse().unwrap()],
            published: vec!["tcp/8443".parse().unwrap()],
            failsafe: Some(Failsafe {
                after: Duration::from_secs(600),
                allow: vec!["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()],
            }),
            silent_port: Some(62201),
            ..GateSpec::default()
        }
    }

    #[test]
    fn a_record_is_read_unchanged_or_rejected() {
        for (backend, gate) in [
            (BackendKind::Nftables, gate()),
            (BackendKind::Iptables, GateSpec::default()),
            (BackendKind::None, GateSpec { mode: FirewallMode::Set, ..gate() }),
        ] {
            let record = BootRecord::of(backend, &gate);
            let text = record.to_text();
            let read = BootRecord::parse(&text).unwrap();
            assert_eq!(read, record);
            let expected = GateSpec { mode: FirewallMode::Guard, ..gate };
            assert_eq!(
                read.gate(Enforcement::Permanent),
                Some(GateSpec { established: Vec::new(), ..expected })
            );
            for bit in 0..text.len() * 8 {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let damaged = String::from_utf8(bytes).ok().and_then(|text| BootRecord::parse(&text));
                assert_eq!(damaged, None, "bit {bit}");
                assert_eq!(BootRecord::parse(&text[..bit / 8]), None, "length {}", bit / 8);
            }
        }
    }

    #[test]
    fn a_config_that_others_can_write_does_not_set_the_state_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let config = scratch.path().join("spa-knockd.toml");
        let text = "[server]\nstate_dir = '/somewhere'\n";
        files::replace(&config, FileMode::Private, text.as_bytes()).unwrap();
        assert_eq!(state_dir_of(&config), Path::new("/somewhere"));
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&config, permissions).unwrap();
        assert_eq!(state_dir_of(&config), config::outline(Path::new("")).state_dir);
    }

    #[test]
    fn a_damaged_file_is_replaced_by_its_copy_and_two_damaged_ones_are_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(read(scratch.path()).ok(), Some(None));
        let mut writer = BootGate::default();
        writer.remember(scratch.path(), BackendKind::Nftables, &gate());
        let expected = BootRecord::of(BackendKind::Nftables, &gate());
        let [first, copy] = FILES.map(|name| scratch.path().join(name));
        for damaged in ["", "{}\nsum 00\n"] {
            files::replace(&first, FileMode::Private, damaged.as_bytes()).unwrap();
            assert_eq!(read(scratch.path()).ok().flatten().as_ref(), Some(&expected), "{damaged}");
        }
        files::remove(&first).unwrap();
        assert_eq!(read(scratch.path()).ok().flatten().as_ref(), Some(&expected));
        files::replace(&copy, FileMode::Private, b"damaged").unwrap();
        let error = read(scratch.path()).unwrap_err().text();
        assert!(error.contains("stays as it is") && error.contains("boot-gate.copy: damaged"), "{error}");
    }
}
