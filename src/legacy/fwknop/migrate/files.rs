//! Reads `access.conf` and what it includes, as strictly as key files: they contain fwknop's keys.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::os::files::{self, FileError};
use spa_knock_fwknop::ConfigFiles;

/// The files of this host.
pub(super) struct MigrationFiles;

impl ConfigFiles for MigrationFiles {
    fn read(&mut self, path: &Path) -> Result<Zeroizing<String>, String> {
        files::read_daemon_secret(path).map_err(reason)
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        files::list(directory).map_err(reason)
    }
}

/// The reason and the hint; the caller names the file.
fn reason(error: FileError) -> String {
    match error.hint {
        Some(hint) => format!("{}\nhint: {hint}", error.reason),
        None => error.reason,
    }
}
