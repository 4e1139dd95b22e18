//! Writing files: whole or not at all, and on the disk.
#![allow(clippy::disallowed_methods, reason = "files are reached here")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::{FileError, FileMode, permissions};

/// Opens a file that is there for writing at any place of it.
///
/// # Errors
/// When that fails.
pub fn open_to_write(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().write(true).open(path).map_err(|error| FileError::io(path, &error))
}

/// Creates a file with these permissions, on the disk as a whole; an existing one is never touched.
///
/// # Errors
/// When it exists or cannot be written; then nothing is left behind.
pub fn create_new(path: &Path, mode: FileMode, content: &[u8]) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    permissions::set_mode(&mut options, mode);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => FileError::new(
            path,
            "is there already and is not overwritten",
            Some("name another file".to_owned()),
        ),
        _ => FileError::io(path, &error),
    })?;
    permissions::give_to_trusted_owner(&file, path)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|error| {
        // A half-written key file would look like a whole one; the error that is told is the first.
        let _ = fs::remove_file(path);
        FileError::io(path, &error)
    })?;
    Ok(file)
}

/// Replaces a file as a whole: a reader sees the old content or the new, also after a power cut.
///
/// # Errors
/// When it cannot be written; the old file is then still there.
pub fn replace(path: &Path, mode: FileMode, content: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let new = folder.join(name);
    // Of a predecessor with our process number that died here.
    let _ = fs::remove_file(&new);
    create_new(&new, mode, content)?;
    rename(&new, path).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })?;
    sync_folder(folder)
}

/// From now on the disk forgets no name in this folder, and none that was taken away comes back.
///
/// # Errors
/// When the disk does not say so.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    permissions::sync_folder(folder)
}

/// Calls a file otherwise, in place of one that is there. A power cut may undo it until the folder is synced.
///
/// # Errors
/// When that fails; both files are then as they were.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|error| FileError::io(to, &error))
}

/// Opens a file for appending, creating it with these permissions.
///
/// # Errors
/// When that fails.
pub fn append(path: &Path, mode: FileMode) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    permissions::refuse_links(&mut options);
    permissions::set_mode(&mut options, mode);
    let file = options.open(path).map_err(|error| FileError::io(path, &error))?;
    permissions::give_to_trusted_owner(&file, path)?;
    Ok(file)
}

/// Opens a log for appending, creating it for all to read. A link is followed if no other user can change it.
///
/// # Errors
/// When that fails, or the link is not to be trusted.
#[cfg(all(unix, feature = "daemon"))]
pub fn append_log(path: &Path) -> Result<File, FileError> {
    use std::os::unix::fs::MetadataExt;
    let Some(link) = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink) else {
        return append(path, FileMode::Public);
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let us = nix::unistd::geteuid().as_raw();
    if ![us, 0].contains(&link.uid()) || super::check_not_writable_by_others(folder).is_err() {
        let hint = format!(
            "name the file itself, or a link of root's that others cannot replace: {}",
            path.display()
        );
        return Err(FileError::new(path, "is a link, which is not followed", Some(hint)));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    permissions::set_mode(&mut options, FileMode::Public);
    options.open(path).map_err(|error| FileError::io(path, &error))
}

/// Whatever this process and what it starts create is for its owner alone, unless they say otherwise (umask 077).
#[cfg(all(unix, feature = "daemon"))]
pub fn restrict_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Lets nobody but its owner at what is there under this name.
///
/// # Errors
/// When that fails.
#[cfg(all(unix, feature = "daemon"))]
pub fn make_private(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|error| FileError::io(path, &error))
}

/// Lets its owner and its group at what is there under this name, to read and to write.
///
/// # Errors
/// When that fails.
#[cfg(all(unix, feature = "daemon"))]
pub fn share_with_group(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(|error| FileError::io(path, &error))
}

/// Removes a file.
///
/// # Errors
/// When it is not there or cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(|error| FileError::io(path, &error))
}

/// Creates a folder and those above it, where they are missing.
///
/// # Errors
/// When one cannot be created.
pub fn create_folder(path: &Path, mode: FileMode) -> Result<(), FileError> {
    permissions::create_folder(path, mode).map_err(|error| FileError::io(path, &error))
}

/// Takes a lock file for as long as the returned handle lives; `None` when another process has it.
///
/// # Errors
/// When the file cannot be created or locked.
pub fn lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = append(path, FileMode::Private)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(FileError::io(path, &error)),
    }
}
