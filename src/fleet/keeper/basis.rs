//! What a member depends on: if it changes, another member is made.

use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::setup::Setup;
use crate::config::{EtcdSettings, FleetStore};
use crate::fleet::files::FleetFiles;
use crate::fleet::mark_file;
use crate::os::files::{self, FileError};
use spa_knock_core::crypto::checksum;
use spa_knock_fleet::rollback::StoreMark;

/// What a member depends on; if it changes, another member is made.
#[derive(PartialEq, Eq, Clone)]
pub(super) struct Basis {
    pub(super) settings: EtcdSettings,
    pub(super) state_dir: PathBuf,
    server: String,
    pub(super) window: Duration,
    /// Of certificates, logins and the fleet key.
    files: [u8; 8],
}

impl Basis {
    /// None without a store.
    pub(super) fn of(setup: &Setup) -> Option<Self> {
        let config = &setup.config;
        let settings = config.fleet.as_ref().and_then(FleetStore::etcd)?.clone();
        Some(Self {
            files: FleetFiles::of(&settings).digest(),
            settings,
            state_dir: config.state_dir.clone(),
            server: config.id.to_string(),
            window: config.window,
        })
    }
}

impl Basis {
    /// What was seen of the store before. Without a mark, the cluster that the config names is all that is known.
    ///
    /// # Errors
    /// If the mark is unreadable.
    pub(super) fn read_mark(&self) -> Result<Option<StoreMark>, FileError> {
        let mark = mark_file::read(&self.state_dir)?;
        Ok(mark.or_else(|| self.settings.cluster.map(StoreMark::of_cluster)))
    }
}

impl FleetFiles {
    /// A digest of all files, to see whether one has changed.
    fn digest(&self) -> [u8; 8] {
        let paths = files::list(&self.0).unwrap_or_default();
        let contents: Vec<_> =
            paths.iter().map(|path| Zeroizing::new(files::read_bytes(path).unwrap_or_default())).collect();
        let parts: Vec<&[u8]> = contents.iter().map(|content| content.as_slice()).collect();
        checksum(&parts)
    }
}
