//! Files that can be replaced even on a full disk: `NAME.new`, next to `NAME`, keeps the room for the next version. It
//! is overwritten in place, and then the two files exchange their names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{FileError, FileMode, permissions, sync_folder};

/// How many zeros are written at a time.
const CHUNK: usize = 64 << 10;

/// Writes and syncs the next version of a file. Zeros follow the content up to `room` bytes, if the disk has room for
/// them. Returns the file and its length. [`swap_in`] gives it its name.
///
/// # Errors
/// When the content cannot be written.
pub fn prepare(path: &Path, content: &[u8], room: usize) -> Result<(File, u64), FileError> {
    let new = next_of(path);
    let error = |error: io::Error| FileError::io(&new, &error);
    if fs::symlink_metadata(&new).is_ok() {
        // Before this sync, a power loss could give this version the name again.
        sync_folder(folder_of(path))?;
    }
    let mut file = open(&new).map_err(error)?;
    file.write_all(content).map_err(error)?;
    let mut length = length(content);
    let before = file.metadata().map_err(error)?.len();
    let room = u64::try_from(room).unwrap_or(u64::MAX).max(length);
    // Overwrites the rest of an older version.
    write_zeros(&mut file, &mut length, before.min(room)).map_err(error)?;
    let kept = length;
    match write_zeros(&mut file, &mut length, room) {
        // All of the room or none, so that the last space of the disk is not used up.
        Err(full) if is_full(&full) => length = kept,
        written => written.map_err(error)?,
    }
    file.set_len(length).and_then(|()| file.sync_all()).map_err(error)?;
    Ok((file, length))
}

/// Gives the prepared version its name, in exchange for the previous one, whose room is kept. A power loss may undo
/// this until the folder is synced.
///
/// # Errors
/// When that fails; both files are then unchanged.
pub fn swap_in(path: &Path) -> Result<(), FileError> {
    let new = next_of(path);
    match exchange(&new, path) {
        Ok(()) => Ok(()),
        // There is no previous version, or this file system cannot exchange names.
        Err(_) => fs::rename(&new, path).map_err(|error| FileError::io(path, &error)),
    }
}

/// Ensures that `room` bytes are reserved for the next version.
///
/// # Errors
/// When the disk has no room for it.
pub fn reserve(path: &Path, room: u64) -> Result<(), FileError> {
    let new = next_of(path);
    let error = |error: io::Error| FileError::io(&new, &error);
    let known = fs::symlink_metadata(&new).ok().filter(fs::Metadata::is_file);
    if known.is_some_and(|metadata| metadata.len() >= room) {
        return Ok(());
    }
    sync_folder(folder_of(path))?;
    let mut file = open(&new).map_err(error)?;
    write_zeros(&mut file, &mut 0, room).and_then(|()| file.sync_all()).map_err(|full| {
        // A part of the room is useless here, but may be needed elsewhere.
        let _ = fs::remove_file(&new);
        error(full)
    })
}

/// The path of the next version of a file.
fn next_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens the file without truncating it. Anything that is not a regular file is removed first.
fn open(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        fs::remove_file(path)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    permissions::refuse_links(&mut options);
    permissions::set_mode(&mut options, FileMode::Private);
    options.open(path)
}

/// Writes zeros from `at` up to `end`, and advances `at`.
fn write_zeros(file: &mut File, at: &mut u64, end: u64) -> io::Result<()> {
    let zeros = [0; CHUNK];
    while *at < end {
        let left = usize::try_from(end.saturating_sub(*at)).unwrap_or(CHUNK);
        match file.write(zeros.get(..left.min(CHUNK)).unwrap_or(&zeros)) {
            Ok(0) => return Err(ErrorKind::StorageFull.into()),
            Ok(written) => *at = at.saturating_add(u64::try_from(written).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn length(content: &[u8]) -> u64 {
    u64::try_from(content.len()).unwrap_or(u64::MAX)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn exchange(one: &Path, other: &Path) -> nix::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_complete_and_room_for_two_versions_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for (round, content) in ["first, and long", "second", "third, and long again", ""].iter().enumerate()
        {
            let (_, length) = prepare(&path, content.as_bytes(), 100).unwrap();
            assert_eq!(length, 100);
            if round > 0 {
                assert!(
                    fs::read(&path).unwrap() != fs::read(next_of(&path)).unwrap(),
                    "the old version still exists"
                );
            }
            swap_in(&path).unwrap();
            let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
            assert_eq!(text.trim_end_matches('\0'), *content);
            reserve(&path, 100).unwrap();
            assert_eq!(fs::metadata(next_of(&path)).unwrap().len(), 100);
        }
        // Without reserved room, a file is as long as its content.
        prepare(&path, b"short", 0).unwrap();
        swap_in(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
