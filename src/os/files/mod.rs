//! The only place that touches files: reading with the permission rules for keys, writing whole or not at all.
#![allow(clippy::disallowed_methods, reason = "this is the place that the rule points to")]

#[cfg(feature = "server")]
pub mod log_file;
#[cfg(feature = "server")]
pub mod tail;

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(not(unix), path = "non_unix.rs")]
mod permissions;
#[cfg(feature = "server")]
mod reserved;
mod secret;

pub use permissions::{trust_daemon_user, trusts_daemon_user};
#[cfg(feature = "server")]
pub use reserved::{prepare, reserve, take_place};
pub(super) use secret::read_zeroizing;
pub use secret::{read_daemon_secret, read_exposed_secret, read_secret, read_secret_from_stdin};

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The largest file that is read as text: a config with thousands of clients has less.
const TEXT_MAX: u64 = 16 << 20;
/// The largest file of bytes.
const BYTES_MAX: u64 = 1 << 30;

/// What went wrong with which file, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}{}", hint_line(.hint))]
pub struct FileError {
    /// The file or folder.
    pub path: String,
    /// Why it cannot be used.
    pub reason: String,
    /// How to mend it, if that is known.
    pub hint: Option<String>,
    /// Whether the file is simply not there.
    pub missing: bool,
}

fn hint_line(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
}

impl FileError {
    fn new(path: &Path, reason: impl Into<String>, hint: Option<String>) -> Self {
        Self { path: path.display().to_string(), reason: reason.into(), hint, missing: false }
    }

    /// An I/O error at this path.
    #[must_use]
    pub fn io(path: &Path, error: &io::Error) -> Self {
        let missing = error.kind() == io::ErrorKind::NotFound;
        Self { missing, ..Self::new(path, plain(error), None) }
    }
}

/// An I/O error in a few lower-case words, without the number that the standard library appends.
#[must_use]
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Opens a regular file for reading. Anything else in its place (a FIFO, a device, a folder) is refused without waiting
/// for it.
fn open_plain(path: &Path) -> Result<File, FileError> {
    let file = permissions::open_for_reading(path).map_err(|error| FileError::io(path, &error))?;
    let metadata = file.metadata().map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_file() {
        return Err(FileError::new(path, "not a regular file", None));
    }
    Ok(file)
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read, is not a regular file, is over 16 MiB or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    read_text_of(open_plain(path)?, path)
}

/// Reads a text file that only the user or root can change: the owner and mode of the opened file are checked, and those
/// of all folders above it.
///
/// # Errors
/// When another user can change it, naming the mode and the fix, or as [`read_text`].
pub fn read_trusted_text(path: &Path) -> Result<String, FileError> {
    read_text_of(open_trusted(path)?, path)
}

/// Reads a file of at most 1 GiB that only the user or root can change, as [`read_trusted_text`] does.
///
/// # Errors
/// As [`read_trusted_text`].
pub fn read_trusted_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    read_bytes_of(open_trusted(path)?, path)
}

fn open_trusted(path: &Path) -> Result<File, FileError> {
    // What is read lies at the end of all links; a link that is changed from here on leads nowhere else.
    let real = fs::canonicalize(path).map_err(|error| FileError::io(path, &error))?;
    let file = open_plain(&real)?;
    let metadata = file.metadata().map_err(|error| FileError::io(path, &error))?;
    permissions::check_unwritable(path, &metadata)?;
    check_folders_above(path)?;
    Ok(file)
}

/// Checks that only the user or root can change what is at `path`: every folder above it, and above what it links to,
/// belongs to one of them and is not writable for others (or is sticky, as /tmp).
///
/// # Errors
/// When another user can, naming the folder, its mode and the fix.
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
pub fn check_private_tree(folder: &Path) -> Result<(), FileError> {
    check_unwritable(folder)?;
    if !fs::metadata(folder).map_err(|error| FileError::io(folder, &error))?.is_dir() {
        return Err(FileError::new(folder, "not a folder", None));
    }
    check_folders_above(folder)?;
    check_entries(folder)
}

/// Checks that a program can be run, and that only the user or root can replace it.
///
/// # Errors
/// When that does not hold, naming the fix, or it is not there.
pub fn check_program(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_file() {
        return Err(FileError::new(path, "not a regular file", None));
    }
    permissions::check_executable(path, &metadata)?;
    permissions::check_unwritable(path, &metadata)?;
    check_folders_above(path)
}

fn check_entries(folder: &Path) -> Result<(), FileError> {
    for path in list(folder)? {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // A file of a command that runs beside us is gone again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::io(&path, &error)),
        };
        if metadata.is_symlink() {
            return Err(FileError::new(&path, "is a link", Some(format!("rm {}", path.display()))));
        }
        permissions::check_unwritable(&path, &metadata)?;
        if metadata.is_dir() {
            check_entries(&path)?;
        }
    }
    Ok(())
}

/// Reads a text file that only the user or root can change: the owner and mode of the opened file are checked, and those
/// of the folder that it is in, as for key files. Anyone may read it.
///
/// # Errors
/// When another user can change it, naming the mode and the fix, or as [`read_text`].
pub fn read_own_text(path: &Path) -> Result<String, FileError> {
    let error = |error: io::Error| FileError::io(path, &error);
    // The folder that matters is the one that the file is in, not the one that a link to it is in.
    let real = fs::canonicalize(path).map_err(error)?;
    let file = open_plain(&real)?;
    permissions::check_unwritable(path, &file.metadata().map_err(error)?)?;
    if let Some(folder) = real.parent() {
        check_unwritable(folder)?;
    }
    read_text_of(file, path)
}

fn read_text_of(file: File, path: &Path) -> Result<String, FileError> {
    let mut text = String::new();
    let read = file.take(TEXT_MAX).read_to_string(&mut text).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => FileError::new(path, "not UTF-8 text", None),
        _ => FileError::io(path, &e),
    })?;
    if u64::try_from(read).is_ok_and(|read| read >= TEXT_MAX) {
        return Err(FileError::new(path, "larger than 16 MiB", None));
    }
    Ok(text)
}

/// Reads a file of at most 1 GiB whole.
///
/// # Errors
/// When it cannot be read, is not a regular file or is larger.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    read_bytes_of(open_plain(path)?, path)
}

fn read_bytes_of(file: File, path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|error| FileError::io(path, &error))?;
    if u64::try_from(read).is_ok_and(|read| read >= BYTES_MAX) {
        return Err(FileError::new(path, "larger than 1 GiB", None));
    }
    Ok(bytes)
}

/// Opens a file that is there for writing at any place of it.
///
/// # Errors
/// When that fails.
pub fn open_to_write(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().write(true).open(path).map_err(|error| FileError::io(path, &error))
}

/// Hands the lines of a text file to `each`, however many there are; what is not UTF-8 is passed over.
///
/// # Errors
/// When it cannot be read.
pub fn read_lines(path: &Path, mut each: impl FnMut(&str)) -> Result<(), FileError> {
    let file = File::open(path).map_err(|error| FileError::io(path, &error))?;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| FileError::io(path, &error))?;
        std::str::from_utf8(&line).map(&mut each).unwrap_or_default();
    }
    Ok(())
}

/// Checks that only the user (or root) may change a file or folder.
///
/// # Errors
/// When somebody else may, naming the mode and the mend, or it is not there.
pub fn check_unwritable(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|error| FileError::io(path, &error))?;
    permissions::check_unwritable(path, &metadata)
}

/// Checks that only the user (or root) may look into a folder.
///
/// # Errors
/// When somebody else may, naming the mode and the mend, or it is not there.
pub fn check_private_folder(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_dir() {
        return Err(FileError::new(path, "not a folder", None));
    }
    permissions::check_private_folder(path, &metadata)
}

/// Checks that files can be written in a folder, by writing one and removing it.
///
/// # Errors
/// When that fails, naming the folder and, as a hint, what follows from it.
pub fn try_folder(folder: &Path, consequence: &str) -> Result<(), FileError> {
    let probe = folder.join(format!(".probe.{}", std::process::id()));
    // Of a predecessor with our process number that died here.
    let _ = fs::remove_file(&probe);
    create_new(&probe, Mode::Private, b"probe\n").and_then(|_| remove(&probe)).map_err(|error| {
        let hint = format!("df and mount show whether it is full or read-only; {consequence}");
        FileError::new(folder, format!("cannot be written: {}", error.reason), Some(hint))
    })
}

/// Creates a file with these permissions, on the disk as a whole; an existing one is never touched.
///
/// # Errors
/// When it exists or cannot be written; then nothing is left behind.
pub fn create_new(path: &Path, mode: Mode, content: &[u8]) -> Result<File, FileError> {
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
pub fn replace(path: &Path, mode: Mode, content: &[u8]) -> Result<(), FileError> {
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
pub fn append(path: &Path, mode: Mode) -> Result<File, FileError> {
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
#[cfg(all(unix, feature = "server"))]
pub fn append_log(path: &Path) -> Result<File, FileError> {
    use std::os::unix::fs::MetadataExt;
    let Some(link) = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink) else {
        return append(path, Mode::Public);
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let us = nix::unistd::geteuid().as_raw();
    if ![us, 0].contains(&link.uid()) || check_unwritable(folder).is_err() {
        let hint = format!(
            "name the file itself, or a link of root's that others cannot replace: {}",
            path.display()
        );
        return Err(FileError::new(path, "is a link, which is not followed", Some(hint)));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    permissions::set_mode(&mut options, Mode::Public);
    options.open(path).map_err(|error| FileError::io(path, &error))
}

/// Whatever this process and what it starts create is for its owner alone, unless they say otherwise (umask 077).
#[cfg(all(unix, feature = "server"))]
pub fn close_to_others() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Lets nobody but its owner at what is there under this name.
///
/// # Errors
/// When that fails.
#[cfg(all(unix, feature = "server"))]
pub fn make_private(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|error| FileError::io(path, &error))
}

/// Lets its owner and its group at what is there under this name, to read and to write.
///
/// # Errors
/// When that fails.
#[cfg(all(unix, feature = "server"))]
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
pub fn create_folder(path: &Path, mode: Mode) -> Result<(), FileError> {
    permissions::create_folder(path, mode).map_err(|error| FileError::io(path, &error))
}

/// The entries of a folder, sorted; empty when there is no such folder.
///
/// # Errors
/// When it cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let error = |error: io::Error| FileError::io(folder, &error);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(error)?;
    paths.sort();
    Ok(paths)
}

/// Reads the last bytes of a text file, whatever they are; what is not UTF-8 is replaced.
///
/// # Errors
/// When it cannot be read.
pub fn read_end(path: &Path, bytes: u64) -> Result<String, FileError> {
    let error = |error: io::Error| FileError::io(path, &error);
    let mut file = File::open(path).map_err(error)?;
    let length = file.metadata().map_err(error)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes))).map_err(error)?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end).map_err(error)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// Whether something is there under this name.
#[must_use]
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Takes a lock file for as long as the returned handle lives; `None` when another process has it.
///
/// # Errors
/// When the file cannot be created or locked.
pub fn lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = append(path, Mode::Private)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(FileError::io(path, &error)),
    }
}

/// Who may read what is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The owner alone: 0600, folders 0700.
    Private,
    /// Everybody reads: 0644, folders 0755.
    Public,
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[allow(clippy::unwrap_used, reason = "clippy does not see that this is test code")]
    pub(super) fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn an_existing_file_is_not_overwritten_by_creating_but_by_replacing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        create_new(&path, Mode::Private, b"1").unwrap();
        assert!(create_new(&path, Mode::Private, b"2").is_err());
        assert_eq!(read_text(&path).unwrap(), "1");
        replace(&path, Mode::Public, b"3").unwrap();
        assert_eq!(read_text(&path).unwrap(), "3");
        assert_eq!(list(scratch.path()).unwrap(), [path]);
    }

    #[test]
    fn what_others_may_change_or_look_into_is_told_with_its_mode() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("d");
        create_folder(&path, Mode::Private).unwrap();
        for (mode, unwritable, private) in
            [(0o700, true, true), (0o755, true, false), (0o775, false, false), (0o1777, true, false)]
        {
            chmod(&path, mode);
            assert_eq!(check_unwritable(&path).is_ok(), unwritable, "{mode:o}");
            assert_eq!(check_private_folder(&path).is_ok(), private, "{mode:o}");
        }
        chmod(&path, 0o775);
        assert_eq!(check_unwritable(&path).unwrap_err().reason, "mode 0775 lets others change it");
        assert_eq!(check_private_folder(&path).unwrap_err().reason, "mode 0775 lets others into it");
    }

    #[test]
    fn a_text_that_others_can_change_or_replace_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("d");
        create_folder(&folder, Mode::Private).unwrap();
        let path = folder.join("f");
        create_new(&path, Mode::Public, b"text").unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_own_text(&path).unwrap(), "text");
        assert_eq!(read_own_text(&link).unwrap(), "text");
        for (file_mode, folder_mode, reason) in [
            (0o664, 0o755, "mode 0664 lets others change it"),
            (0o646, 0o755, "mode 0646 lets others change it"),
            (0o644, 0o777, "mode 0777 lets others change it"),
        ] {
            chmod(&path, file_mode);
            chmod(&folder, folder_mode);
            let error = read_own_text(&link).unwrap_err();
            assert_eq!(error.reason, reason);
            assert!(error.hint.unwrap().starts_with("chmod go-w "));
        }
        chmod(&folder, 0o1777);
        assert_eq!(read_own_text(&folder).unwrap_err().reason, "not a regular file");
        assert!(read_own_text(&folder.join("none")).unwrap_err().missing);
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }
}
