//! Checks who else can change or read a file or folder, and whether it can be used.
#![allow(clippy::disallowed_methods, reason = "this module accesses files")]

#[cfg(unix)]
use std::fs;
#[cfg(unix)]
use std::io;
use std::path::Path;

use super::{FileError, permissions};
#[cfg(unix)]
use super::{FileMode, create_new, list, remove};

/// Checks that only the user or root can replace what is at `path`: every folder above it, and above the target of its
/// links, belongs to one of them and is not writable for others (or is sticky, as /tmp).
///
/// # Errors
/// When another user can, naming the folder, its mode and the fix.
#[cfg(unix)]
pub fn check_folders_above(path: &Path) -> Result<(), FileError> {
    let absolute = std::path::absolute(path).map_err(|error| FileError::io(path, &error))?;
    let real = fs::canonicalize(path).unwrap_or_else(|_| absolute.clone());
    for folder in absolute.ancestors().skip(1).chain(real.ancestors().skip(1)) {
        match fs::metadata(folder) {
            Ok(metadata) => permissions::check_folder(folder, &metadata)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::io(folder, &error)),
        }
    }
    Ok(())
}

/// Checks that only the user or root can read or change what is in `folder`: the folder, everything in it, and the
/// folders above it. Links in it are not followed.
///
/// # Errors
/// When another user can, naming the path, its mode and the fix, or it is not a folder.
#[cfg(unix)]
pub fn check_private_tree(folder: &Path) -> Result<(), FileError> {
    check_not_writable_by_others(folder)?;
    if !fs::metadata(folder).map_err(|error| FileError::io(folder, &error))?.is_dir() {
        return Err(FileError::new(folder, "not a directory", None));
    }
    check_folders_above(folder)?;
    check_entries(folder)
}

/// Checks that a program can be run, and that only the user or root can replace it.
///
/// # Errors
/// When that does not hold, naming the fix, or it is not there.
#[cfg(unix)]
pub fn check_program(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_file() {
        return Err(FileError::new(path, "not a regular file", None));
    }
    permissions::check_executable(path, &metadata)?;
    permissions::check_unwritable(path, &metadata)?;
    check_folders_above(path)
}

#[cfg(unix)]
fn check_entries(folder: &Path) -> Result<(), FileError> {
    for path in list(folder)? {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Another command of ours that runs at the same time has removed its file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::io(&path, &error)),
        };
        if metadata.is_symlink() {
            return Err(FileError::new(&path, "is a symbolic link", Some(format!("rm {}", path.display()))));
        }
        permissions::check_unwritable(&path, &metadata)?;
        if metadata.is_dir() {
            check_entries(&path)?;
        }
    }
    Ok(())
}

/// Checks that only the user (or root) can change a file or folder.
///
/// # Errors
/// When another user can, naming the mode and the fix, or when it does not exist.
pub fn check_not_writable_by_others(path: &Path) -> Result<(), FileError> {
    let found = permissions::of_path(path).map_err(|error| FileError::io(path, &error))?;
    permissions::check_unwritable(path, &found)
}

/// Checks that only the user (or root) can access a folder.
///
/// # Errors
/// When another user can, naming the mode and the fix, or when it does not exist.
#[cfg(unix)]
pub fn check_private_folder(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_dir() {
        return Err(FileError::new(path, "not a directory", None));
    }
    permissions::check_private_folder(path, &metadata)
}

/// Checks that files can be written in a folder, by writing one and removing it.
///
/// # Errors
/// When that fails, naming the folder and, in the hint, `consequence`.
#[cfg(unix)]
pub fn try_folder(folder: &Path, consequence: &str) -> Result<(), FileError> {
    let probe = folder.join(format!(".probe.{}", std::process::id()));
    // Left by an earlier process with our process id that was killed here.
    let _ = fs::remove_file(&probe);
    create_new(&probe, FileMode::Private, b"probe\n").and_then(|_| remove(&probe)).map_err(|error| {
        let hint = format!("check with df and mount whether it is full or read-only; {consequence}");
        FileError::new(folder, format!("cannot be written: {}", error.reason), Some(hint))
    })
}
