//! The config that the daemon last ran with, in the state folder: commands use it while the config itself has errors.

use std::path::{Path, PathBuf};

use crate::config::setup::Setup;
use crate::config::{self, ConfigText, ServerConfig};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};

/// The file in the state folder.
const FILE: &str = "last-good.toml";

/// Remembers the config that is in force now, without its clients.
///
/// # Errors
/// When it cannot be written; the one before is still there then.
pub(crate) fn remember(setup: &Setup) -> Result<(), FileError> {
    let text = files::read_text(&setup.path)?;
    // Changed since it was setup: the next reload remembers it, if it is valid.
    if !read_as(&setup.path, &text).is_some_and(|config| same_but_for_clients(&config, &setup.config)) {
        return Ok(());
    }
    let time = clock::rfc3339(clock::wall());
    let header =
        format!("# {}, as the daemon setup it at {time}. Written by spa-knockd.\n", setup.path.display());
    files::replace(&path(&setup.config.state_dir), FileMode::Private, (header + &text).as_bytes())
}

/// What the daemon last ran with, if that is known.
pub(crate) fn read(state_dir: &Path) -> Option<ServerConfig> {
    let file = path(state_dir);
    // Whoever could write it could choose what root does with it.
    files::check_not_writable_by_others(state_dir)
        .and_then(|()| files::check_not_writable_by_others(&file))
        .ok()?;
    read_as(&file, &files::read_text(&file).ok()?)
}

/// The file itself.
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
