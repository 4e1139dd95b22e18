//! Clients of the fleet: they are in its store, sealed, and the running daemon of each member writes them to its disk.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use super::client_files::ClientFiles;
use super::joined;
use crate::config::{self, ClientEntry, FleetStore, ServerConfig, fleet_client_folders};
use crate::console::{AdminError, notice, own_command};
use crate::fleet::admin::policy::{FleetPolicy, NewEntry, StoredClient};
use crate::fleet::entry::ClientEntryFiles;
use crate::fleet::uses_id;
use crate::os::files;
use crate::state;
use spa_knock_core::crypto::{KeyFile, KeyOwner, OtpSeed};
use spa_knock_core::knock::{ClientName, ProtocolVersion};
use spa_knock_fleet::keys::{SeedId, StoreKey};

/// How long the daemon of this server has for a change.
const WAIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// The clients of the fleet, for a command that changes them.
pub(crate) struct FleetClients {
    policy: FleetPolicy,
    /// Of definitions and keys, on each member.
    folders: [PathBuf; 2],
    /// What the files must contain after the change; none = they must be gone.
    expected: RefCell<Vec<(PathBuf, Option<String>)>>,
}

/// A new client of the fleet.
pub(super) struct FleetClient<'a> {
    pub(super) name: &'a ClientName,
    pub(super) definition: String,
    pub(super) key: &'a KeyFile,
    pub(super) otp: Option<&'a OtpSeed>,
    /// Whether its uses are limited.
    pub(super) is_counted: bool,
}

/// Whether this server is the member of a fleet with a store.
pub(crate) fn is_member(config: &ServerConfig) -> bool {
    config.fleet.as_ref().and_then(FleetStore::etcd).is_some()
}

impl FleetClients {
    /// Opens them if the command line asks for it.
    ///
    /// # Errors
    /// If this server is not a member, or a file of the fleet is unusable.
    pub(crate) fn if_asked(config: &ServerConfig, is_asked: bool) -> Result<Option<Self>, AdminError> {
        if !is_asked {
            return Ok(None);
        }
        let settings = config.fleet.as_ref().and_then(FleetStore::etcd).ok_or_else(|| {
            AdminError::usage(format_args!(
                "--fleet: this server is not a member of a fleet with a store\nhint: leave out --fleet; or join one first: {}",
                own_command("fleet join")
            ))
        })?;
        Ok(Some(Self {
            policy: FleetPolicy::open(settings, &config.state_dir)?,
            folders: fleet_client_folders(&config.state_dir),
            expected: RefCell::default(),
        }))
    }

    /// The paths of a client's files on each member.
    pub(super) fn files_of(&self, name: &ClientName) -> ClientFiles {
        let [definitions, keys] = &self.folders;
        ClientFiles {
            key: keys.join(format!("{name}.key")),
            otp: keys.join(format!("{name}.otp")),
            definition: definitions.join(format!("{name}.toml")),
        }
    }

    /// Adds clients to the store, all or none.
    ///
    /// # Errors
    /// If the store does not answer, rejects it, or has one of them.
    pub(super) fn add(&self, clients: Vec<FleetClient<'_>>) -> Result<(), AdminError> {
        let mut entries = Vec::new();
        for client in clients {
            let FleetClient { name, definition, key, otp, is_counted } = client;
            self.expect(name, Some(&definition));
            let mut keys = vec![(format!("{name}.key"), key.to_text())];
            keys.extend(otp.map(|otp| (format!("{name}.otp"), otp.to_text())));
            let uses = is_counted.then(|| StoreKey::Uses(uses_id(name)));
            let codes = otp.map(|otp| StoreKey::Otp(SeedId::from_bytes(*otp.fingerprint().as_bytes())));
            entries.push(NewEntry {
                name: name.clone(),
                files: ClientEntryFiles { definition, keys },
                counters: uses.into_iter().chain(codes).collect(),
                readmitted: fingerprints(key),
            });
        }
        self.policy.add(&entries)
    }

    /// Waits until the daemon of this server, if one runs, has received the change, and reports whether it has.
    pub(super) fn wait_for(&self, config: &ServerConfig, names: &[&ClientName]) {
        let subject = if names.len() > 1 { "clients" } else { "client" };
        let subject = format!("{subject} {}", joined(names));
        if !state::is_locked(&config.state_dir) {
            return notice(format_args!(
                "{subject}: changed in the fleet; no daemon runs here, and it applies this when it starts"
            ));
        }
        let rounds = WAIT.as_millis().checked_div(PAUSE.as_millis()).unwrap_or_default();
        for _ in 0..rounds {
            if self.is_received() {
                return notice(format_args!("{subject}: applied by the daemon of this server"));
            }
            std::thread::sleep(PAUSE);
        }
        notice(format_args!(
            "warning: {subject}: changed in the fleet, but the daemon of this server has not received it\nhint: {} shows whether the store answers",
            own_command("fleet status")
        ));
    }

    fn is_received(&self) -> bool {
        self.expected.borrow().iter().all(|(path, text)| match text {
            Some(text) => files::read_text(path).is_ok_and(|found| found == *text),
            None => !files::exists(path),
        })
    }

    fn expect(&self, name: &ClientName, definition: Option<&str>) {
        let path = self.files_of(name).definition;
        self.expected.borrow_mut().push((path, definition.map(str::to_owned)));
    }
}

/// The fingerprints that a key can have in knocks.
fn fingerprints(key: &KeyFile) -> Vec<spa_knock_core::crypto::Fingerprint> {
    match &key.holder {
        KeyOwner::Pair { server, secret } => [ProtocolVersion::V1, ProtocolVersion::V2]
            .map(|version| secret.fingerprint(version, server))
            .into(),
        KeyOwner::Root(_) => Vec::new(),
    }
}
