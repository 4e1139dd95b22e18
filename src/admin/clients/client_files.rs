//! The files that make a client: written all or none, and removed unless somebody else needs them.

use std::path::{Path, PathBuf};

use crate::config::{CLIENTS_FOLDER, ClientEntry, ServerConfig};
use crate::console::{AdminError, notice, print_error};
use crate::os::files::{self, FileMode};
use spa_knock_core::knock::ClientName;

/// The files that make a client.
pub(super) struct ClientFiles {
    pub(super) key: PathBuf,
    pub(super) otp: PathBuf,
    pub(super) definition: PathBuf,
}

impl ClientFiles {
    pub(super) fn of(path: &Path, config: &ServerConfig, name: &ClientName) -> Self {
        Self::of_name(path, &config.keys_dir, name)
    }

    /// The same with keys in `keys_dir`.
    pub(super) fn of_name(path: &Path, keys_dir: &Path, name: &ClientName) -> Self {
        Self {
            key: keys_dir.join(format!("{name}.key")),
            otp: keys_dir.join(format!("{name}.otp")),
            definition: path.with_file_name(CLIENTS_FOLDER).join(format!("{name}.toml")),
        }
    }
}

/// Files that go again unless they are kept.
#[derive(Default)]
pub(crate) struct CreatedFiles(Vec<PathBuf>);

impl CreatedFiles {
    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> Result<(), AdminError> {
        files::create_new(path, FileMode::Private, content)?;
        self.0.push(path.to_owned());
        Ok(())
    }

    pub(crate) fn persist(mut self) {
        self.0.clear();
    }
}

impl Drop for CreatedFiles {
    fn drop(&mut self) {
        // The last one first: the definition must not outlive its key.
        for path in self.0.iter().rev() {
            if let Err(error) = files::remove(path) {
                print_error(format_args!("{error}\nhint: remove it by hand"));
            }
        }
    }
}

/// Removes the key files of a client that is gone or has other ones, unless somebody else may need them.
///
/// # Errors
/// When one of them is still there; the others are gone.
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
        notice(format_args!("left alone: its key file {}", key.display()));
        return Ok(());
    }
    match files::remove(key) {
        Err(error) if !error.missing => {
            print_error(format_args!("key file {error}"));
            Err(AdminError::run(format_args!(
                "client {name}: its key file is still there\nhint: rm {}",
                key.display()
            )))
        }
        _ => Ok(()),
    }
}
