//! The clients of the fleet: sealed by the administrator, kept on disk as files with the form of `clients.d`, so that a start
//! without the store knows them all. The store can delete and delay entries, but neither read, forge nor bring back one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::{fleet_client_folders, fleet_folder};
use crate::fleet::entry::ClientEntryFiles;
use crate::fleet::files::FleetFileError;
use crate::os::files::{self, FileMode};
use spa_knock_core::crypto::KeyFile;
use spa_knock_core::knock::{ClientName, ProtocolVersion, ServerId};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::seal::FleetKey;
use spa_knock_fleet::serials::{SerialVerdict, Serials};

/// The highest serial of each entry.
const SERIALS: &str = "serials";
/// The fingerprints of all keys that the fleet has revoked: one that the store brings back stays refused.
const REVOKED: &str = "revoked";

/// What this member knows of the fleet's clients.
pub(crate) struct MirroredClients {
    key: FleetKey,
    space: KeySpace,
    server: ServerId,
    folder: PathBuf,
    definitions: PathBuf,
    keys: PathBuf,
    serials: Serials,
    revoked: BTreeSet<String>,
    /// The key files of each client whose entry was read since the start.
    files: BTreeMap<ClientName, Vec<String>>,
    /// While everything is read again: the clients that were found.
    found: Option<BTreeSet<ClientName>>,
    /// Whether a file has changed since the last [`MirroredClients::take_change`].
    is_changed: bool,
}

impl MirroredClients {
    /// Reads what is on disk, and creates the directories.
    ///
    /// # Errors
    /// If a file is damaged: then nothing recognizes an old entry.
    pub(crate) fn open(
        key: FleetKey,
        space: KeySpace,
        state_dir: &Path,
        server: &ServerId,
    ) -> Result<Self, FleetFileError> {
        let folder = fleet_folder(state_dir);
        let [definitions, keys] = fleet_client_folders(state_dir);
        for folder in [&folder, &definitions, &keys] {
            files::create_folder(folder, FileMode::Private)?;
        }
        let path = folder.join(SERIALS);
        let serials = Serials::from_text(&text_of(&path)?).map_err(|error| {
            FleetFileError(format!(
                "{}: {error}\nhint: copy the file from another member of the fleet; otherwise, an old client that the store brings back is not recognized",
                path.display()
            ))
        })?;
        let revoked = text_of(&folder.join(REVOKED))?.lines().map(str::to_owned).collect();
        Ok(Self {
            key,
            space,
            server: server.clone(),
            folder,
            definitions,
            keys,
            serials,
            revoked,
            files: BTreeMap::new(),
            found: None,
            is_changed: false,
        })
    }

    /// All entries follow.
    pub(crate) fn begin(&mut self) {
        self.found = Some(BTreeSet::new());
    }

    /// A client was written or deleted.
    ///
    /// # Errors
    /// Why the entry is not applied. What was applied before remains.
    pub(crate) fn apply_client(
        &mut self,
        client: &ClientName,
        value: Option<&[u8]>,
    ) -> Result<(), FleetFileError> {
        let Some(value) = value else { return self.remove(client) };
        if let Some(found) = &mut self.found {
            found.insert(client.clone());
        }
        let entry_key = StoreKey::PolicyClient(client.clone());
        let entry = self
            .key
            .open(&self.space, &entry_key, value)
            .map_err(|error| FleetFileError(error.to_string()))?;
        let files = ClientEntryFiles::read(client, &entry.content).ok_or_else(|| {
            FleetFileError(format!(
                "client {client}: its entry in the store has an unknown form\nhint: update the members to the same version"
            ))
        })?;
        if let Some(fingerprint) = self.revoked_key(&files) {
            self.remove(client)?;
            return Err(FleetFileError(format!(
                "client {client}: the store has an entry with the revoked key {fingerprint}; not used\nhint: find out who has changed the store"
            )));
        }
        let mut serials = self.serials.clone();
        match serials.record(&entry_key, entry.serial) {
            SerialVerdict::Same => {}
            SerialVerdict::New => {
                files::replace(&self.folder.join(SERIALS), FileMode::Private, serials.to_text().as_bytes())?;
                self.serials = serials;
            }
            SerialVerdict::RolledBack { highest } => {
                return Err(FleetFileError(format!(
                    "client {client}: the store has brought back its entry {} after {highest}; not used\nhint: find out who has changed the store, or whether it was restored",
                    entry.serial
                )));
            }
        }
        self.write(client, &files)
    }

    /// A key was revoked. Returns its fingerprint if this was not known; it is on disk then.
    ///
    /// # Errors
    /// If the entry was not sealed by this fleet, or the file cannot be written.
    pub(crate) fn apply_revocation(
        &mut self,
        key: &StoreKey,
        value: Option<&[u8]>,
    ) -> Result<Option<String>, FleetFileError> {
        let (StoreKey::PolicyRevoked(fingerprint), Some(value)) = (key, value) else { return Ok(None) };
        self.key.open(&self.space, key, value).map_err(|error| FleetFileError(error.to_string()))?;
        let fingerprint = fingerprint.to_string();
        if !self.revoked.insert(fingerprint.clone()) {
            return Ok(None);
        }
        let lines: String = self.revoked.iter().map(|line| format!("{line}\n")).collect();
        if let Err(error) = files::replace(&self.folder.join(REVOKED), FileMode::Private, lines.as_bytes()) {
            // In force nevertheless, until this daemon ends.
            log::error!("fleet: {error}; a revocation is lost at the next start if the store loses it, too");
        }
        Ok(Some(fingerprint))
    }

    /// Everything was read: removes the clients that the store does not have any more.
    pub(crate) fn complete(&mut self) {
        let Some(found) = self.found.take() else { return };
        for path in files::list(&self.definitions).unwrap_or_default() {
            let name = path.file_stem().and_then(|stem| stem.to_str()?.parse::<ClientName>().ok());
            if let Some(name) = name.filter(|name| !found.contains(name))
                && let Err(error) = self.remove(&name)
            {
                log::error!("client {name}: {error}");
            }
        }
        // Key files of clients whose entry was replaced while this member did not run.
        for path in files::list(&self.keys).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_used = self.files.values().flatten().any(|file| file == name);
            let is_of_unread = found
                .iter()
                .any(|client| !self.files.contains_key(client) && name.starts_with(&format!("{client}.")));
            if !is_used && !is_of_unread {
                remove_file(&path);
            }
        }
    }

    /// Whether files have changed since the last call, so that the config must be read again.
    pub(crate) const fn take_change(&mut self) -> bool {
        std::mem::replace(&mut self.is_changed, false)
    }

    /// The fingerprint of a key of these files that the fleet has revoked.
    fn revoked_key(&self, files: &ClientEntryFiles) -> Option<String> {
        let keys = files.keys.iter().filter_map(|(_, text)| KeyFile::parse(text).ok());
        let fingerprints = keys.flat_map(|key| {
            [ProtocolVersion::V1, ProtocolVersion::V2].map(|version| key.fingerprint(version, &self.server))
        });
        fingerprints.map(|fingerprint| fingerprint.to_string()).find(|text| self.revoked.contains(text))
    }

    fn write(&mut self, client: &ClientName, files: &ClientEntryFiles) -> Result<(), FleetFileError> {
        let definition = self.definition(client);
        let is_same = |path: &Path, text: &str| {
            files::read_bytes(path).is_ok_and(|found| *Zeroizing::new(found) == text.as_bytes())
        };
        // The definition makes the client valid, so it is written last.
        for (name, text) in &files.keys {
            let path = self.keys.join(name);
            if !is_same(&path, text) {
                files::replace(&path, FileMode::Private, text.as_bytes())?;
                self.is_changed = true;
            }
        }
        if !is_same(&definition, &files.definition) {
            files::replace(&definition, FileMode::Private, files.definition.as_bytes())?;
            self.is_changed = true;
        }
        let names = files.keys.iter().map(|(name, _)| name.clone()).collect();
        if let Some(before) = self.files.insert(client.clone(), names) {
            self.remove_unused(&before);
        }
        Ok(())
    }

    fn remove(&mut self, client: &ClientName) -> Result<(), FleetFileError> {
        if let Some(found) = &mut self.found {
            found.remove(client);
        }
        match files::remove(&self.definition(client)) {
            Ok(()) => self.is_changed = true,
            Err(error) if error.missing => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(before) = self.files.remove(client) {
            self.remove_unused(&before);
        }
        Ok(())
    }

    fn remove_unused(&self, names: &[String]) {
        let is_used = |name: &&String| self.files.values().flatten().any(|used| used == *name);
        names.iter().filter(|name| !is_used(name)).for_each(|name| remove_file(&self.keys.join(name)));
    }

    fn definition(&self, client: &ClientName) -> PathBuf {
        self.definitions.join(format!("{client}.toml"))
    }
}

fn text_of(path: &Path) -> Result<String, FleetFileError> {
    match files::read_text(path) {
        Err(error) if error.missing => Ok(String::new()),
        text => Ok(text?),
    }
}

fn remove_file(path: &Path) {
    if let Err(error) = files::remove(path)
        && !error.missing
    {
        log::error!("key file {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_core::crypto::{Fingerprint, Secret};

    const PAIR: &str = "spa-knock-key: 1\nkind: pair\nserver: prod.test\nsecret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

    struct Fleet {
        key: FleetKey,
        space: KeySpace,
        state: tempfile::TempDir,
    }

    impl Fleet {
        fn new() -> Self {
            let space = KeySpace::new(&"prod".parse().unwrap());
            let key = FleetKey::new(&Secret::from_bytes(&[3; 32]), &space);
            Self { key, space, state: tempfile::tempdir().unwrap() }
        }

        fn policy(&self) -> MirroredClients {
            let server = "prod.test".parse().unwrap();
            MirroredClients::open(self.key.clone(), self.space.clone(), self.state.path(), &server).unwrap()
        }

        fn entry(&self, name: &str, serial: u64, definition: &str, keys: &[(&str, &str)]) -> Vec<u8> {
            let keys =
                keys.iter().map(|(file, text)| ((*file).to_owned(), Zeroizing::new((*text).to_owned())));
            let files = ClientEntryFiles { definition: definition.to_owned(), keys: keys.collect() };
            let key = StoreKey::PolicyClient(name.parse().unwrap());
            self.key.seal(&self.space, &key, serial, &files.to_bytes()).unwrap()
        }

        fn listed(&self) -> Vec<String> {
            let listed = fleet_client_folders(self.state.path()).into_iter().flat_map(|folder| {
                files::list(&folder).unwrap().into_iter().map(|path| path.file_name().unwrap().to_owned())
            });
            listed.map(|name| name.into_string().unwrap()).collect()
        }
    }

    #[test]
    fn a_client_comes_changes_and_goes_with_its_files() {
        let fleet = Fleet::new();
        let mut policy = fleet.policy();
        let laptop: ClientName = "laptop".parse().unwrap();
        let first = fleet.entry("laptop", 1, "a", &[("laptop.key", "k")]);
        policy.apply_client(&laptop, Some(&first)).unwrap();
        assert!(policy.take_change() && !policy.take_change());
        assert_eq!(fleet.listed(), ["laptop.toml", "laptop.key"]);
        policy.apply_client(&laptop, Some(&first)).unwrap();
        assert!(!policy.take_change(), "the same entry changes nothing");
        let second = fleet.entry("laptop", 2, "b", &[("laptop.2.key", "k2")]);
        policy.apply_client(&laptop, Some(&second)).unwrap();
        assert_eq!(fleet.listed(), ["laptop.toml", "laptop.2.key"]);
        policy.apply_client(&laptop, None).unwrap();
        assert!(policy.take_change());
        assert!(fleet.listed().is_empty());
    }

    #[test]
    fn an_entry_that_the_store_brings_back_is_not_used_also_after_a_restart() {
        let fleet = Fleet::new();
        let laptop: ClientName = "laptop".parse().unwrap();
        let [old, new] = [1, 2].map(|serial| fleet.entry("laptop", serial, &serial.to_string(), &[]));
        let mut policy = fleet.policy();
        policy.apply_client(&laptop, Some(&new)).unwrap();
        drop(policy);
        let mut policy = fleet.policy();
        let error = policy.apply_client(&laptop, Some(&old)).unwrap_err().to_string();
        assert!(
            error.starts_with("client laptop: the store has brought back its entry 1 after 2"),
            "{error}"
        );
        assert!(!policy.take_change());
        let forged = fleet.entry("other", 3, "x", &[]);
        assert!(policy.apply_client(&laptop, Some(&forged)).is_err(), "sealed for another name");
        assert!(policy.apply_client(&laptop, Some(b"x")).is_err());
        let text = files::read_text(&policy.definition(&laptop)).unwrap();
        assert_eq!(text, "2");
    }

    #[test]
    fn a_revoked_key_does_not_come_back_with_the_entry_that_had_it() {
        let fleet = Fleet::new();
        let laptop: ClientName = "laptop".parse().unwrap();
        let entry = fleet.entry("laptop", 1, "a", &[("laptop.key", PAIR)]);
        let mut policy = fleet.policy();
        policy.apply_client(&laptop, Some(&entry)).unwrap();
        let server: ServerId = "prod.test".parse().unwrap();
        let fingerprint = KeyFile::parse(PAIR).unwrap().fingerprint(ProtocolVersion::V1, &server);
        let key = StoreKey::PolicyRevoked(fingerprint);
        let sealed = fleet.key.seal(&fleet.space, &key, 1, b"0").unwrap();
        assert_eq!(policy.apply_revocation(&key, Some(&sealed)).unwrap(), Some(fingerprint.to_string()));
        assert_eq!(policy.apply_revocation(&key, Some(&sealed)).unwrap(), None, "known");
        let other = StoreKey::PolicyRevoked(Fingerprint::from_bytes([9; 8]));
        assert!(policy.apply_revocation(&other, Some(&sealed)).is_err(), "sealed for another key");
        policy.apply_client(&laptop, None).unwrap();
        for mut policy in [policy, fleet.policy()] {
            let error = policy.apply_client(&laptop, Some(&entry)).unwrap_err().to_string();
            assert!(error.contains("with the revoked key"), "{error}");
        }
        assert!(fleet.listed().is_empty());
    }

    #[test]
    fn after_everything_was_read_only_the_clients_of_the_store_are_left() {
        let fleet = Fleet::new();
        let [laptop, phone]: [ClientName; 2] = ["laptop", "phone"].map(|name| name.parse().unwrap());
        let entry = |name: &str| fleet.entry(name, 1, name, &[(&format!("{name}.key"), "k")]);
        let mut policy = fleet.policy();
        policy.apply_client(&laptop, Some(&entry("laptop"))).unwrap();
        policy.apply_client(&phone, Some(&entry("phone"))).unwrap();
        drop(policy);
        let mut policy = fleet.policy();
        policy.begin();
        policy.apply_client(&phone, Some(&entry("phone"))).unwrap();
        policy.complete();
        assert!(policy.take_change());
        assert_eq!(fleet.listed(), ["phone.toml", "phone.key"]);
    }

    #[test]
    fn a_client_whose_new_entry_is_unreadable_keeps_its_files() {
        let fleet = Fleet::new();
        let laptop: ClientName = "laptop".parse().unwrap();
        let mut policy = fleet.policy();
        policy.apply_client(&laptop, Some(&fleet.entry("laptop", 1, "a", &[("laptop.key", "k")]))).unwrap();
        drop(policy);
        let mut policy = fleet.policy();
        policy.begin();
        assert!(policy.apply_client(&laptop, Some(b"damaged")).is_err());
        policy.complete();
        assert_eq!(fleet.listed(), ["laptop.toml", "laptop.key"]);
    }
}
