//! The files that make up a client: created all or none, and removed unless another client uses them.

use std::path::{Path, PathBuf};

use crate::config::{CLIENTS_FOLDER, ClientEntry, ServerConfig};
use crate::console::{AdminError, notice, print_error};
use crate::os::files::{self, FileMode};
use spa_knock_core::knock::ClientName;

/// The paths of a client's files.
pub(super) struct ClientFiles {
    pub(super) key: PathBuf,
    pub(super) otp: PathBuf,
    pub(super) definition: PathBuf,
}

impl ClientFiles {
    pub(super) fn of(path: &Path, config: &ServerConfig, name: &ClientName) -> Self {
        Self::of_name(path, &config.keys_dir, name)
    }

    /// The same, with keys in `keys_dir`.
    pub(super) fn of_name(path: &Path, keys_dir: &Path, name: &ClientName) -> Self {
        Self {
            key: keys_dir.join(format!("{name}.key")),
            otp: keys_dir.join(format!("{name}.otp")),
            definition: path.with_file_name(CLIENTS_FOLDER).join(format!("{name}.toml")),
        }
    }
}

/// New files. They are removed again unless `persist` is called.
#[derive(Default)]
pub(crate) struct CreatedFiles(Vec<PathBuf>);

impl CreatedFiles {
    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> Result<(), AdminError> {
        files::create_whole(path, FileMode::Private, content)?;
        self.0.push(path.to_owned());
        Ok(())
    }

    pub(crate) fn persist(mut self) {
        self.0.clear();
    }
}

impl Drop for CreatedFiles {
    fn drop(&mut self) {
        // The newest first: the definition must not outlive its key.
        for path in self.0.iter().rev() {
            if let Err(error) = files::remove(path) {
                print_error(format_args!("{error}\nhint: remove the file by hand"));
            }
        }
    }
}

/// Removes key files that a client no longer uses, unless another client uses them.
///
/// # Errors
/// When a file could not be removed; the others are removed.
pub(crate) fn remove_keys<'k>(
    config: &ServerConfig,
    name: &ClientName,
    keys: impl Iterator<Item = &'k PathBuf>,
) -> Result<(), AdminError> {
    keys.map(|key| remove_key(config, name, key)).fold(Ok(()), Result::and)
}

fn remove_key(config: &ServerConfig, name: &ClientName, key: &Path) -> Result<(), AdminError> {
    let names = |client: &ClientEntry| client.key == key || client.otp.as_deref() == Some(key);
    let shared = config.clients.iter().any(|(other, client)| other != name && names(client));
    if shared || !key.starts_with(&config.keys_dir) {
        notice(format_args!("key file kept: {}", key.display()));
        return Ok(());
    }
    match files::remove(key) {
        Err(error) if !error.missing => {
            print_error(format_args!("key file {error}"));
            Err(AdminError::run(format_args!(
                "client {name}: its key file could not be removed\nhint: rm {}",
                key.display()
            )))
        }
        _ => Ok(()),
    }
}
