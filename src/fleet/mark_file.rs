//! What this member has seen of the store, on disk: a store that was restored from a snapshot, or set up again, is
//! recognized also after a restart.

use std::path::{Path, PathBuf};

use crate::config::fleet_folder;
use crate::console::own_command;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_fleet::rollback::{InvalidMark, StoreMark};

/// The file in the fleet's folder of the state directory.
const FILE: &str = "mark";

/// Reads the mark; none before the first start.
///
/// # Errors
/// If it is unreadable: then nothing shows whether the store went back.
pub(crate) fn read(state_dir: &Path) -> Result<Option<StoreMark>, FileError> {
    let path = path(state_dir);
    let text = match files::read_text(&path) {
        Err(error) if error.missing => return Ok(None),
        text => text?,
    };
    text.trim().parse().map(Some).map_err(|InvalidMark| FileError {
        path: path.display().to_string(),
        reason: InvalidMark.to_string(),
        hint: Some(format!(
            "find out what has changed the file; then: {}",
            own_command("fleet accept-store")
        )),
        missing: false,
        denied: false,
    })
}

/// Writes the mark, fsynced.
///
/// # Errors
/// If that fails; the file is then unchanged.
pub(crate) fn write(state_dir: &Path, mark: &StoreMark) -> Result<(), FileError> {
    files::create_folder(&fleet_folder(state_dir), FileMode::Private)?;
    files::replace(&path(state_dir), FileMode::Private, format!("{mark}\n").as_bytes())
}

fn path(state_dir: &Path) -> PathBuf {
    fleet_folder(state_dir).join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_written_and_a_damaged_one_is_an_error() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()).unwrap(), None);
        let mark = StoreMark::of_cluster(0xab);
        write(state.path(), &mark).unwrap();
        assert_eq!(read(state.path()).unwrap(), Some(mark));
        files::replace(&path(state.path()), FileMode::Private, b"x").unwrap();
        let error = read(state.path()).unwrap_err().to_string();
        assert!(error.contains("not a mark of a store") && error.contains("fleet accept-store"), "{error}");
    }
}
