//! Writes files, completely or not at all, and synced to disk.
#![allow(clippy::disallowed_methods, reason = "this module accesses files")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::displayed;
use super::{FileError, FileMode, permissions};

/// Opens an existing file for writing at any position.
///
/// # Errors
/// When that fails.
pub fn open_to_write(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().write(true).open(path).map_err(|error| FileError::io(path, &error))
}

/// Creates a file with these permissions, and syncs it. An existing file is never changed.
///
/// # Errors
/// When it exists or cannot be written; then nothing is left behind.
pub fn create_new(path: &Path, mode: FileMode, content: &[u8]) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    permissions::set_new_mode(&mut options, mode);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => FileError::new(
            path,
            "already exists and is not overwritten",
            Some("choose another file name".to_owned()),
        ),
        _ => FileError::io(path, &error),
    })?;
    let written = permissions::complete(&mut file, path, mode).and_then(|()| {
        let written = file.write_all(content).and_then(|()| file.sync_all());
        written.map_err(|error| FileError::io(path, &error))
    });
    if let Err(error) = written {
        // A half-written key file would look like a complete one. On Windows, an open file cannot be removed.
        drop(file);
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// Creates a file like [`create_new`]. It appears with its whole content, also if this process is killed on the way.
///
/// # Errors
/// When it exists or cannot be written; then nothing is left behind.
pub fn create_whole(path: &Path, mode: FileMode, content: &[u8]) -> Result<(), FileError> {
    let (folder, new) = beside(path);
    create_new(&new, mode, content).map_err(|error| FileError { path: displayed(path), ..error })?;
    let linked = fs::hard_link(&new, path);
    let _ = fs::remove_file(&new);
    match linked {
        Ok(()) => sync_folder(folder),
        // It exists, which this reports; or the file system has no links.
        Err(_) => create_new(path, mode, content).map(drop),
    }
}

/// Numbers the new files of [`beside`]: threads can write the same file simultaneously.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Replaces a file atomically: a reader sees the old content or the new, also after a power loss.
///
/// # Errors
/// When it cannot be written; the old file is then unchanged.
pub fn replace(path: &Path, mode: FileMode, content: &[u8]) -> Result<(), FileError> {
    let (folder, new) = beside(path);
    create_new(&new, mode, content)?;
    rename(&new, path).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })?;
    sync_folder(folder)
}

/// The folder of a file, and an unused name in it for the file's new content.
fn beside(path: &Path) -> (&Path, PathBuf) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".new.{}.{number}", std::process::id()));
    let new = folder.join(name);
    // Left by an earlier process with our process id that was killed here.
    let _ = fs::remove_file(&new);
    (folder, new)
}

/// Syncs a folder: after this, created names persist and removed names stay removed.
///
/// # Errors
/// When the disk does not confirm it.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    permissions::sync_folder(folder)
}

/// Renames a file, replacing an existing one. A power loss may undo this until the folder is synced.
///
/// # Errors
/// When that fails; both files are then unchanged.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|error| FileError::io(to, &error))
}

/// Opens a file for appending, creating it with these permissions.
///
/// # Errors
/// When that fails.
#[cfg(unix)]
pub fn append(path: &Path, mode: FileMode) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    permissions::refuse_links(&mut options);
    permissions::set_mode(&mut options, mode);
    let mut file = options.open(path).map_err(|error| FileError::io(path, &error))?;
    permissions::complete(&mut file, path, mode)?;
    Ok(file)
}

/// Opens a log for appending, creating it readable for everyone. A symbolic link is followed if no other user can
/// change it.
///
/// # Errors
/// When that fails, or the link is not trusted.
#[cfg(all(unix, feature = "daemon"))]
pub fn append_log(path: &Path) -> Result<File, FileError> {
    use std::os::unix::fs::MetadataExt;
    let Some(link) = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink) else {
        return append(path, FileMode::Public);
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let own_uid = nix::unistd::geteuid().as_raw();
    if ![own_uid, 0].contains(&link.uid()) || super::check_not_writable_by_others(folder).is_err() {
        let hint = format!(
            "use the file itself, or a link that belongs to root and that others cannot replace: {}",
            path.display()
        );
        return Err(FileError::new(path, "is a symbolic link, which is not followed", Some(hint)));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    permissions::set_mode(&mut options, FileMode::Public);
    options.open(path).map_err(|error| FileError::io(path, &error))
}

/// Sets umask 077: files that this process and its children create are accessible to their owner alone, unless they set
/// other modes.
#[cfg(all(unix, feature = "daemon"))]
pub fn restrict_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Restricts an existing file or socket to its owner.
///
/// # Errors
/// When that fails.
#[cfg(all(unix, feature = "daemon"))]
pub fn make_private(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|error| FileError::io(path, &error))
}

/// Allows the owner and the group of an existing file or socket to read and write it.
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
/// When it does not exist or cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(|error| FileError::io(path, &error))
}

/// Removes a folder with all that it contains.
///
/// # Errors
/// When it does not exist or cannot be removed. A part may then be removed.
#[cfg(all(unix, feature = "fleet"))]
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    fs::remove_dir_all(path).map_err(|error| FileError::io(path, &error))
}

/// Creates a folder and its missing parent folders.
///
/// # Errors
/// When one cannot be created.
pub fn create_folder(path: &Path, mode: FileMode) -> Result<(), FileError> {
    permissions::create_folder(path, mode).map_err(|error| FileError::io(path, &error))
}

/// Locks a lock file for as long as the returned handle lives; `None` when another process holds the lock.
///
/// # Errors
/// When the file cannot be created or locked.
#[cfg(unix)]
pub fn lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = append(path, FileMode::Private)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(FileError::io(path, &error)),
    }
}
