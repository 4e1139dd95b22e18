//! What this member has seen of the store, on disk: a store that was restored from a snapshot, or set up again, is
//! recognized also after a restart.

use std::path::{Path, PathBuf};

use crate::config::fleet_folder;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::rollback::StoreMark;

/// The file in the fleet's folder of the state directory.
const FILE: &str = "mark";

/// The path of the mark.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    fleet_folder(state_dir).join(FILE)
}

/// Reads the mark. Without one, the id of the cluster that the config names is all that is known.
///
/// # Errors
/// If it is unreadable: then nothing shows whether the store went back.
pub(crate) fn read(state_dir: &Path, cluster: Option<u64>) -> Result<Option<String>, FileError> {
    let path = path(state_dir);
    let text = match files::read_text(&path) {
        Err(error) if error.missing => return Ok(cluster.map(|cluster| first(cluster, Timestamp::default()))),
        text => text?,
    };
    let mark = text.trim();
    if mark.parse::<StoreMark>().is_err() {
        return Err(FileError {
            path: path.display().to_string(),
            reason: "not a mark of a store".to_owned(),
            hint: Some("run spa-knockd fleet accept-store".to_owned()),
            missing: false,
        });
    }
    Ok(Some(mark.to_owned()))
}

/// The mark of a cluster of which nothing but this floor is known.
pub(crate) fn first(cluster: u64, floor: Timestamp) -> String {
    format!("{cluster:016x} {:016x} {:016x}", 0, floor.as_millis())
}

/// Writes the mark, fsynced.
///
/// # Errors
/// If that fails; the file is then unchanged.
pub(crate) fn write(state_dir: &Path, mark: &str) -> Result<(), FileError> {
    files::create_folder(&fleet_folder(state_dir), FileMode::Private)?;
    files::replace(&path(state_dir), FileMode::Private, format!("{mark}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_written_and_a_damaged_one_is_an_error() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path(), None).unwrap(), None);
        let known = read(state.path(), Some(0xab)).unwrap().unwrap();
        assert_eq!(known, "00000000000000ab 0000000000000000 0000000000000000");
        assert!(known.parse::<StoreMark>().is_ok());
        write(state.path(), &known).unwrap();
        assert_eq!(read(state.path(), None).unwrap(), Some(known));
        files::replace(&path(state.path()), FileMode::Private, b"x").unwrap();
        let error = read(state.path(), None).unwrap_err().to_string();
        assert!(error.contains("not a mark of a store\nhint: run spa-knockd fleet accept-store"), "{error}");
    }
}
