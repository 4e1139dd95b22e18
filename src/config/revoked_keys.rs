//! The file `revoked` in the state directory: keys that are refused although the config may still name them. A key is
//! listed if it was revoked while the client's files could not be changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::client_keys::LoadedClient;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::crypto::Fingerprint;

/// The file name in the state directory. Each line is a fingerprint.
const FILE: &str = "revoked";
const HEADER: &str = "# Fingerprints of revoked keys, which are refused even if the config names them. Written by spa-knockd.\n";

/// The fingerprints of revoked keys, in printed form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RevokedKeys(BTreeSet<String>);

impl RevokedKeys {
    /// Reads the list in the state directory; empty if there is no file.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub(crate) fn read(state_dir: &Path) -> Result<Self, FileError> {
        match files::read_text(&path(state_dir)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.missing => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the list; removes the file if the list is empty.
    ///
    /// # Errors
    /// If that fails; the file is then unchanged.
    pub(crate) fn write(&self, state_dir: &Path) -> Result<(), FileError> {
        let file = path(state_dir);
        if self.0.is_empty() {
            return match files::remove(&file) {
                Err(error) if !error.missing => Err(error),
                _ => Ok(()),
            };
        }
        let lines: String = self.0.iter().map(|fingerprint| format!("{fingerprint}\n")).collect();
        files::replace(&file, FileMode::Private, (HEADER.to_owned() + &lines).as_bytes())
    }

    /// Merges the file's list into this one and writes the result: a command may have added keys since the list was
    /// read.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn join_with(&mut self, state_dir: &Path) -> Result<(), FileError> {
        self.merge(Self::read(state_dir)?);
        self.write(state_dir)
    }

    /// Adds fingerprints to the file.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn add_to(state_dir: &Path, fingerprints: &[String]) -> Result<(), FileError> {
        let mut keys = Self::read(state_dir)?;
        files::create_folder(state_dir, FileMode::Private)?;
        keys.extend(fingerprints);
        keys.write(state_dir)
    }

    /// Removes a key from the file because it is assigned to a client again.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn forget_in(state_dir: &Path, fingerprint: Fingerprint) -> Result<(), FileError> {
        let mut keys = Self::read(state_dir)?;
        if keys.0.remove(&fingerprint.to_string()) { keys.write(state_dir) } else { Ok(()) }
    }

    /// Adds these fingerprints.
    pub(crate) fn extend(&mut self, fingerprints: &[String]) {
        self.0.extend(fingerprints.iter().cloned());
    }

    /// Adds the fingerprints of another list.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether this key is revoked.
    pub(crate) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.0.contains(&fingerprint.to_string())
    }

    /// Removes clients whose current key is revoked, and previous keys that are revoked. Returns the names of the
    /// removed clients.
    pub(crate) fn drop_from(&self, clients: &mut Vec<LoadedClient>) -> Vec<String> {
        let mut names = Vec::new();
        clients.retain_mut(|client| {
            if client.previous.as_ref().is_some_and(|previous| self.contains(previous.keys.fingerprint)) {
                client.previous = None;
            }
            let revoked = self.contains(client.keys.fingerprint);
            if revoked {
                names.push(client.name.to_string());
            }
            !revoked
        });
        names
    }

    /// The revoked keys that these clients still have.
    pub(crate) fn still_configured(&self, clients: &[LoadedClient]) -> Self {
        let configured =
            clients.iter().flat_map(LoadedClient::key_sets).map(|keys| keys.fingerprint.to_string());
        Self(configured.filter(|fingerprint| self.0.contains(fingerprint)).collect())
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(str::to_owned).collect())
    }
}

/// The path of the file.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_as_it_was_written_and_an_empty_list_has_no_file() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(RevokedKeys::read(scratch.path()).unwrap(), RevokedKeys::default());
        RevokedKeys::default().write(scratch.path()).unwrap();
        let two = ["0011223344556677".to_owned(), "8899aabbccddeeff".to_owned()];
        RevokedKeys::add_to(scratch.path(), &two[..1]).unwrap();
        RevokedKeys::add_to(scratch.path(), &two).unwrap();
        let mut keys = RevokedKeys::read(scratch.path()).unwrap();
        assert_eq!(keys.0.iter().cloned().collect::<Vec<_>>(), two);
        // A daemon that read the list earlier does not lose keys that were added since then.
        let mut earlier = RevokedKeys::parse("ffeeddccbbaa9988\n");
        earlier.join_with(scratch.path()).unwrap();
        assert_eq!(earlier.0.len(), 3);
        assert_eq!(RevokedKeys::read(scratch.path()).unwrap(), earlier);
        keys.0.clear();
        keys.write(scratch.path()).unwrap();
        assert!(!path(scratch.path()).exists());
    }
}
