//! The clients of the fleet in the store, opened and sealed with the fleet key.

use std::path::Path;

use super::{client_as, serials_file, space};
use crate::config::EtcdSettings;
use crate::console::{AdminError, own_command};
use crate::fleet::entry::ClientEntryFiles;
use crate::fleet::files::{FleetFiles, LoginFile};
use crate::os::files;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ClientName, Timestamp};
use spa_knock_fleet::claim::number;
use spa_knock_fleet::client::{KeyRange, Patience, RangeRequest, StoreClient, Txn, TxnOp, TxnResult};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::policy;
use spa_knock_fleet::seal::{FleetKey, UnsealError};
use spa_knock_fleet::serials::Serials;

/// etcd runs at most 128 operations in one transaction.
const OPERATIONS: usize = 100;

/// The policy of the fleet, which the administrator of this server changes.
pub(crate) struct StoredPolicy {
    client: StoreClient,
    space: KeySpace,
    key: FleetKey,
    serials: Serials,
}

/// A client that the store does not have yet.
pub(crate) struct NewEntry {
    pub(crate) name: ClientName,
    pub(crate) files: ClientEntryFiles,
    /// What is counted for it.
    pub(crate) counters: Vec<StoreKey>,
}

/// A client as the store has it.
pub(crate) struct StoredClient {
    pub(crate) name: ClientName,
    /// As it is in the store.
    sealed: Vec<u8>,
    serial: u64,
    /// Its files, if they were sealed by this fleet and are understood.
    pub(crate) files: Result<ClientEntryFiles, String>,
}

impl StoredPolicy {
    /// Opens it with the login of the administrator.
    ///
    /// # Errors
    /// If a file of the fleet is unusable.
    pub(crate) fn open(settings: &EtcdSettings, state_dir: &Path) -> Result<Self, AdminError> {
        let client = client_as(settings, LoginFile::Admin)?;
        let key = FleetFiles::of(settings).read_key(&settings.name)?;
        let file = serials_file(state_dir);
        let serials = match files::read_text(&file) {
            Err(error) if error.missing => Serials::default(),
            text => Serials::from_text(&text?)
                .map_err(|error| AdminError::run(format_args!("{}: {error}", file.display())))?,
        };
        Ok(Self { client, space: space(settings), key, serials })
    }

    /// Reads a client; none if the store has none of this name.
    ///
    /// # Errors
    /// If the store does not answer, or rejects us.
    pub(crate) fn find(&self, name: &ClientName) -> Result<Option<StoredClient>, AdminError> {
        let path = self.space.path(&StoreKey::PolicyClient(name.clone()));
        let found =
            self.client.range(&RangeRequest::new(KeyRange::one(path)), Patience::BACKGROUND)?.kvs.pop();
        Ok(found.map(|found| self.opened(name.clone(), found.value)))
    }

    /// Reads all clients.
    ///
    /// # Errors
    /// If the store does not answer, or rejects us.
    pub(crate) fn clients(&self) -> Result<Vec<StoredClient>, AdminError> {
        let (_, found) = self.client.read_all(&self.space.watched(), Patience::BACKGROUND)?;
        let clients = found.into_iter().filter_map(|found| match self.space.parse(&found.key)? {
            StoreKey::PolicyClient(name) => Some(self.opened(name, found.value)),
            _ => None,
        });
        Ok(clients.collect())
    }

    fn opened(&self, name: ClientName, sealed: Vec<u8>) -> StoredClient {
        let opened = self.key.open(&self.space, &StoreKey::PolicyClient(name.clone()), &sealed);
        let serial = opened.as_ref().map_or(0, |entry| entry.serial);
        let files = opened.map_err(|error: UnsealError| error.to_string()).and_then(|entry| {
            ClientEntryFiles::read(&name, &entry.content).ok_or_else(|| {
                format!("client {name}: its entry has an unknown form\nhint: update this server")
            })
        });
        StoredClient { name, sealed, serial, files }
    }

    /// Writes clients that the store must not have yet, all or none, with counters for what they use up.
    ///
    /// # Errors
    /// If the store does not answer, rejects it, or has one of them already.
    pub(crate) fn add(&self, clients: &[NewEntry]) -> Result<(), AdminError> {
        let (mut all, mut written) = (Txn::default(), Vec::new());
        for NewEntry { name, files, counters } in clients {
            let (txn, sealed) = self.write(name, None, files)?;
            all.compare.extend(txn.compare);
            all.success.extend(txn.success);
            all.failure.extend(txn.failure);
            // In the same transaction: where a counter is missing, claims fail; and one that an earlier client of this
            // name has left must not go on.
            all.success.extend(counters.iter().map(|key| TxnOp::put(self.space.path(key), number(0))));
            written.push(Some(sealed));
        }
        self.run(&all, &written, || {
            let names: Vec<_> = clients.iter().map(|client| client.name.as_str()).collect();
            format!(
                "client {}: exists already in the fleet\nhint: choose another name, or revoke it first: {}",
                names.join(", "),
                own_command("client revoke NAME --fleet")
            )
        })
    }

    /// Checks that no key with one of these fingerprints was revoked: the members refuse it forever, so that a store that
    /// brings it back changes nothing.
    ///
    /// # Errors
    /// If one was, or the store does not answer.
    pub(crate) fn check_not_revoked(&self, fingerprints: &[Fingerprint]) -> Result<(), AdminError> {
        for fingerprint in fingerprints {
            let path = self.space.path(&StoreKey::PolicyRevoked(*fingerprint));
            let read = RangeRequest::new(KeyRange::one(path));
            if !self.client.range(&read, Patience::BACKGROUND)?.kvs.is_empty() {
                return Err(AdminError::key(format_args!(
                    "key {fingerprint}: was revoked in the fleet, whose members refuse it from then on\nhint: use a new key"
                )));
            }
        }
        Ok(())
    }

    /// Replaces a client that has not changed since it was read.
    ///
    /// # Errors
    /// If the store does not answer, rejects it, or has another entry now.
    pub(crate) fn replace(&self, old: &StoredClient, files: &ClientEntryFiles) -> Result<(), AdminError> {
        let (txn, sealed) = self.write(&old.name, Some(old), files)?;
        self.run(&txn, &[Some(sealed)], || changed(&old.name))
    }

    fn write(
        &self,
        name: &ClientName,
        old: Option<&StoredClient>,
        files: &ClientEntryFiles,
    ) -> Result<(Txn, Vec<u8>), AdminError> {
        let key = StoreKey::PolicyClient(name.clone());
        let serial = self.serials.next(&key).max(old.map_or(0, |old| old.serial.saturating_add(1)));
        let sealed = self.key.seal(&self.space, &key, serial, &files.to_bytes()).map_err(AdminError::run)?;
        let txn = policy::write(&self.space, &key, old.map(|old| old.sealed.as_slice()), &sealed);
        Ok((txn, sealed))
    }

    /// Revokes keys and deletes the client, its counters and its grants. The revocation is written first, because it
    /// works even where the deletion is not seen.
    ///
    /// # Errors
    /// If the store does not answer, or rejects it.
    pub(crate) fn revoke(
        &self,
        client: &StoredClient,
        fingerprints: &[Fingerprint],
        counters: &[StoreKey],
        now: Timestamp,
    ) -> Result<usize, AdminError> {
        let mut revoked = Vec::new();
        for fingerprint in fingerprints {
            let key = StoreKey::PolicyRevoked(*fingerprint);
            let content = now.as_millis().to_string();
            let sealed = self.key.seal(&self.space, &key, now.as_millis(), content.as_bytes());
            revoked.push(TxnOp::put(self.space.path(&key), sealed.map_err(AdminError::run)?));
        }
        if !revoked.is_empty() {
            self.client.txn(&Txn::unconditional(revoked), Patience::BACKGROUND)?;
        }
        let entry = StoreKey::PolicyClient(client.name.clone());
        let mut delete = policy::delete(&self.space, &entry, &client.sealed);
        delete.success.extend(counters.iter().map(|key| self.delete(key)));
        self.run(&delete, &[None], || changed(&client.name))?;
        let grants = self.grants_of(&client.name)?;
        for some in grants.chunks(OPERATIONS) {
            let deletions = some.iter().map(|key| self.delete(key)).collect();
            self.client.txn(&Txn::unconditional(deletions), Patience::BACKGROUND)?;
        }
        Ok(grants.len())
    }

    fn delete(&self, key: &StoreKey) -> TxnOp {
        TxnOp::Delete(KeyRange::one(self.space.path(key)))
    }

    /// Only its content shows whose a grant is, whether it has ended or not.
    fn grants_of(&self, name: &ClientName) -> Result<Vec<StoreKey>, AdminError> {
        let (_, found) = self.client.read_all(&self.space.watched(), Patience::BACKGROUND)?;
        let keys = found.into_iter().filter_map(|found| {
            let key = self.space.parse(&found.key).filter(|key| matches!(key, StoreKey::Grant(_)))?;
            let entry = self.key.open(&self.space, &key, &found.value).ok()?;
            let text: serde_json::Value = serde_json::from_slice(&entry.content).ok()?;
            (text.get("client")?.as_str()? == name.as_str()).then_some(key)
        });
        Ok(keys.collect())
    }

    /// Runs a transaction. After a lost answer, its first try may have been carried out: then the keys that are read for
    /// the refusal have what it has `written`.
    fn run(
        &self,
        txn: &Txn,
        written: &[Option<Vec<u8>>],
        refused: impl Fn() -> String,
    ) -> Result<(), AdminError> {
        let response = self.client.txn(txn, Patience::BACKGROUND)?;
        let found = response.responses.into_iter().filter_map(|result| match result {
            TxnResult::Range(mut range) => Some(range.kvs.pop().map(|found| found.value)),
            _ => None,
        });
        if response.succeeded || found.eq(written.iter().cloned()) {
            Ok(())
        } else {
            Err(AdminError::run(refused()))
        }
    }
}

fn changed(name: &ClientName) -> String {
    format!("client {name}: was changed in the store at this moment\nhint: repeat the command")
}
