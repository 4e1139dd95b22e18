//! Clients of the fleet: they are in its store, sealed, and the running daemon of each member writes them to its disk.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::client_files::ClientFiles;
use super::joined;
use crate::config::{self, ClientEntry, FleetStore, ServerConfig, fleet_client_folders, fleet_folder};
use crate::console::{AdminError, notice, own_command};
use crate::fleet::admin;
use crate::fleet::admin::policy::{NewEntry, StoredClient, StoredPolicy};
use crate::fleet::entry::ClientEntryFiles;
use crate::fleet::uses_id;
use crate::os::{clock, files};
use crate::state;
use spa_knock_core::crypto::{KeyFile, KeyOwner, OtpSeed};
use spa_knock_core::knock::{ClientName, ProtocolVersion};
use spa_knock_fleet::keys::{SeedId, StoreKey};

/// How long the daemon of this server has for a change.
const WAIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// The clients of the fleet, for a command that changes them.
pub(crate) struct FleetClients {
    policy: StoredPolicy,
    /// Of definitions and keys, on each member.
    folders: [PathBuf; 2],
    /// What the files must contain after the change; none = they must be gone.
    expected: RefCell<Vec<(PathBuf, Option<String>)>>,
}

/// Why a client of the fleet was not revoked.
pub(crate) enum RevocationFailure {
    /// The fleet has no such client.
    Unknown(AdminError),
    /// The store does not answer, or rejects it: members may still accept the client.
    Store(AdminError),
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

/// Whether this server's daemon has not run yet as a member, and so has no client of the fleet.
pub(crate) fn awaits_first_start(config: &ServerConfig) -> bool {
    let [definitions, _] = fleet_client_folders(&config.state_dir);
    is_member(config) && !files::exists(&definitions)
}

impl FleetClients {
    /// Opens them if the command line asks for it.
    ///
    /// # Errors
    /// If this server is not a member, or a file of the fleet is unusable.
    pub(crate) fn if_asked(config: &ServerConfig, is_asked: bool) -> Result<Option<Self>, AdminError> {
        is_asked.then(|| Self::required(config)).transpose()
    }

    /// Opens them.
    ///
    /// # Errors
    /// If this server is not a member, or a file of the fleet is unusable.
    pub(crate) fn required(config: &ServerConfig) -> Result<Self, AdminError> {
        let settings = config.fleet.as_ref().and_then(FleetStore::etcd).ok_or_else(|| {
            AdminError::usage(format_args!(
                "--fleet: this server is not a member of a fleet with a store\nhint: leave out --fleet; or join one first: {}",
                own_command("fleet join")
            ))
        })?;
        Ok(Self {
            policy: StoredPolicy::open(settings, &config.state_dir)?,
            folders: fleet_client_folders(&config.state_dir),
            expected: RefCell::default(),
        })
    }

    /// Checks that a key that the command line names was not revoked.
    ///
    /// # Errors
    /// If it was, or the store does not answer.
    pub(super) fn check_not_revoked(&self, key: &KeyFile) -> Result<(), AdminError> {
        self.policy.check_not_revoked(&fingerprints(key))
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
            let codes = otp.map(codes);
            entries.push(NewEntry {
                name: name.clone(),
                files: ClientEntryFiles { definition, keys },
                counters: uses.into_iter().chain(codes).collect(),
            });
        }
        self.policy.add(&entries)
    }

    /// Finds a client with its entry and definition.
    ///
    /// # Errors
    /// If the store does not answer, has none of this name, or its entry is unusable.
    pub(super) fn find(
        &self,
        config: &ServerConfig,
        name: &ClientName,
    ) -> Result<(StoredEntry, ClientEntry, String), AdminError> {
        let stored = self.policy.find(name)?.ok_or_else(|| self.no_such(config, name.as_str()))?;
        let files = stored.files.as_ref().map_err(AdminError::run)?;
        let text = files.definition.clone();
        let entry = config::read_fleet_client(config, name, &text)?;
        Ok((StoredEntry(stored), entry, text))
    }

    /// The error for a name or fingerprint that the fleet does not have.
    pub(crate) fn no_such(&self, config: &ServerConfig, wanted: &str) -> AdminError {
        let is_here =
            config.clients.iter().any(|(name, entry)| name.as_str() == wanted && !is_of_fleet(config, entry));
        let hint = match is_here {
            true => "it is a client of this server alone: leave out --fleet".to_owned(),
            false => match self.policy.clients() {
                Ok(clients) if !clients.is_empty() => {
                    format!("clients of the fleet: {}", joined(clients.iter().map(|client| &client.name)))
                }
                _ => "the fleet has no clients".to_owned(),
            },
        };
        AdminError::run(format_args!("client {wanted}: no such client in the fleet\nhint: {hint}"))
    }

    /// The client that a text defines.
    ///
    /// # Errors
    /// The problems of the text.
    pub(super) fn read_definition(
        &self,
        config: &ServerConfig,
        name: &ClientName,
        text: &str,
    ) -> Result<ClientEntry, AdminError> {
        Ok(config::read_fleet_client(config, name, text)?)
    }

    /// Where the members have the key files.
    pub(super) fn keys_folder(&self) -> &Path {
        let [_, keys] = &self.folders;
        keys
    }

    /// Replaces a client that has not changed since it was read.
    ///
    /// # Errors
    /// If the store does not answer, rejects it, or has another entry now.
    pub(super) fn replace(
        &self,
        name: &ClientName,
        stored: &StoredEntry,
        definition: &str,
        new_key: Option<(&Path, &Zeroizing<String>)>,
        dropped: &[PathBuf],
    ) -> Result<(), AdminError> {
        let old = stored.0.files.as_ref().map_err(AdminError::run)?;
        let is_dropped = |file: &str| dropped.iter().any(|path| is_named(path, file));
        let mut keys: Vec<_> = old.keys.iter().filter(|(file, _)| !is_dropped(file)).cloned().collect();
        if let Some((path, text)) = new_key {
            keys.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text.clone()));
        }
        self.expect(name, Some(definition));
        self.policy.replace(&stored.0, &ClientEntryFiles { definition: definition.to_owned(), keys })
    }

    /// Revokes a client by name, or by the fingerprint of one of its keys, and returns its name and how many of its grants
    /// have ended.
    ///
    /// # Errors
    /// If the store does not answer, rejects it, or has no such client.
    pub(crate) fn revoke(
        &self,
        config: &ServerConfig,
        wanted: &str,
    ) -> Result<(ClientName, usize), RevocationFailure> {
        let is_wanted = |client: &StoredClient| {
            let has_key = |key: &KeyFile| fingerprints(key).iter().any(|print| print.to_string() == wanted);
            client.name.as_str() == wanted || keys_of(client).iter().any(has_key)
        };
        let mut all = self.policy.clients().map_err(RevocationFailure::Store)?;
        let found = all
            .iter()
            .position(is_wanted)
            .ok_or_else(|| RevocationFailure::Unknown(self.no_such(config, wanted)))?;
        let client = all.swap_remove(found);
        let name = &client.name;
        let keys = keys_of(&client);
        if keys.is_empty() {
            // Deleting the entry is all that can be done; members that do not see it keep the client.
            notice(format_args!(
                "warning: client {name}: its keys in the store are unreadable and can't be listed as revoked"
            ));
        }
        let mut counters = vec![StoreKey::Uses(uses_id(name))];
        counters.extend(codes_of(&client));
        let revoked: Vec<_> = keys.iter().flat_map(fingerprints).collect();
        self.expect(name, None);
        let grants = self
            .policy
            .revoke(&client, &revoked, &counters, clock::wall())
            .map_err(RevocationFailure::Store)?;
        Ok((client.name, grants))
    }

    /// Waits until the daemon of this server, if one runs, has received the change, and reports whether it has.
    pub(crate) fn wait_for(&self, config: &ServerConfig, names: &[&ClientName]) {
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

/// A client as the store of the fleet has it.
pub(super) struct StoredEntry(StoredClient);

impl StoredEntry {
    /// Whether it has a key file of this name.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.0.files.as_ref().is_ok_and(|files| files.keys.iter().any(|(file, _)| is_named(path, file)))
    }
}

/// The key files of a client that are understood.
fn keys_of(client: &StoredClient) -> Vec<KeyFile> {
    let files = client.files.as_ref().map(|files| files.keys.as_slice()).unwrap_or_default();
    files.iter().filter_map(|(_, text)| KeyFile::parse(text).ok()).collect()
}

/// What counts the one-time passwords of a client.
fn codes_of(client: &StoredClient) -> Vec<StoreKey> {
    let files = client.files.as_ref().map(|files| files.keys.as_slice()).unwrap_or_default();
    files.iter().filter_map(|(_, text)| OtpSeed::parse(text).ok()).map(|otp| codes(&otp)).collect()
}

fn codes(otp: &OtpSeed) -> StoreKey {
    StoreKey::Otp(SeedId::from_bytes(*otp.fingerprint().as_bytes()))
}

fn is_named(path: &Path, file: &str) -> bool {
    path.file_name().is_some_and(|name| name == file)
}

/// Whether a client is one of the fleet.
pub(crate) fn is_of_fleet(config: &ServerConfig, entry: &ClientEntry) -> bool {
    is_member(config) && entry.defined_in.starts_with(fleet_folder(&config.state_dir))
}

/// Checks that a command without `--fleet` changes a client of this server.
pub(super) fn check_of_server(
    config: &ServerConfig,
    name: &ClientName,
    entry: &ClientEntry,
) -> Result<(), AdminError> {
    if !is_of_fleet(config, entry) {
        return Ok(());
    }
    Err(AdminError::run(format_args!(
        "client {name}: is a client of the fleet\nhint: add --fleet, which changes it on all members"
    )))
}

/// How many of its uses a client of the fleet has left, which only the store knows.
pub(super) fn uses_text(config: &ServerConfig, name: &ClientName, limit: u64) -> String {
    let Some(settings) = config.fleet.as_ref().and_then(FleetStore::etcd) else { return String::new() };
    match admin::read_count(settings, &StoreKey::Uses(uses_id(name))) {
        Ok(Some(used)) => format!("{used} of {limit} used, {} left", limit.saturating_sub(used)),
        Ok(None) => format!("none left of {limit}: the store does not count for it"),
        Err(failure) => format!("unknown, of {limit}: {}", failure.text().lines().next().unwrap_or_default()),
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
