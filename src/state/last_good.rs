//! A copy of the last valid config in the state directory. Commands use it while the config file has errors.

use std::path::{Path, PathBuf};

use crate::config::setup::Setup;
use crate::config::{self, ConfigText, ServerConfig};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};

/// The file name in the state directory.
const FILE: &str = "last-good.toml";

/// Saves the config that is in effect, without its clients.
///
/// # Errors
/// If it cannot be written; the previous copy is then kept.
pub(crate) fn remember(setup: &Setup) -> Result<(), FileError> {
    let text = files::read_text(&setup.path)?;
    // The file has changed since it was loaded. The next reload saves it if it is valid.
    if !read_as(&setup.path, &text).is_some_and(|config| same_but_for_clients(&config, &setup.config)) {
        return Ok(());
    }
    let time = clock::rfc3339(clock::wall());
    let header =
        format!("# {}, as loaded by the daemon at {time}. Written by spa-knockd.\n", setup.path.display());
    files::replace(&path(&setup.config.state_dir), FileMode::Private, (header + &text).as_bytes())
}

/// The config that the daemon last ran with, if there is a trustworthy copy.
pub(crate) fn read(state_dir: &Path) -> Option<ServerConfig> {
    let file = path(state_dir);
    // Another user who can write to the file could decide what root does.
    files::check_not_writable_by_others(state_dir)
        .and_then(|()| files::check_not_writable_by_others(&file))
        .ok()?;
    read_as(&file, &files::read_text(&file).ok()?)
}

/// The path of the file.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn read_as(file: &Path, text: &str) -> Option<ServerConfig> {
    config::read(&ConfigText { file: file.to_owned(), text: text.to_owned() }, &[]).ok()
}

fn same_but_for_clients(one: &ServerConfig, other: &ServerConfig) -> bool {
    let bare = |config: &ServerConfig| ServerConfig {
        clients: Default::default(),
        places: config::ValueLocations::new(Path::new("")),
        ..config.clone()
    };
    bare(one) == bare(other)
}
