//! Reads files, with the permission rules for keys, and writes them completely or not at all. The only module that
//! accesses files.
#![allow(clippy::disallowed_methods, reason = "this is the place that the rule points to")]

#[cfg(feature = "daemon")]
pub mod log_file;
#[cfg(feature = "daemon")]
pub mod tail;

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod permissions;

#[cfg(any(windows, test))]
mod access_list;
mod checks;
mod error;
#[cfg(feature = "daemon")]
mod of_account;
#[cfg(feature = "daemon")]
mod program;
#[cfg(feature = "daemon")]
mod reserved;
mod secret;
mod write;

pub use checks::check_not_writable_by_others;
#[cfg(unix)]
pub use checks::{check_folders_above, check_private_folder, check_private_tree, check_program, try_folder};
pub use error::{FileError, io_error_text};
#[cfg(all(unix, feature = "fleet"))]
pub use write::remove_folder;
#[cfg(unix)]
pub use write::{append, lock};
#[cfg(all(unix, feature = "daemon"))]
pub use write::{append_log, make_private, restrict_umask, share_with_group};
pub use write::{
    create_folder, create_new, create_whole, open_to_write, remove, rename, replace, sync_folder,
};

#[cfg(feature = "daemon")]
pub use of_account::read_text_of_account;
#[cfg(unix)]
pub use permissions::{trust_daemon_user, trusts_daemon_user};
#[cfg(feature = "daemon")]
pub use program::{open_program, own_program};
#[cfg(feature = "daemon")]
pub use reserved::{prepare, reserve, swap_in};
#[cfg(unix)]
pub use secret::read_daemon_secret;
#[cfg(feature = "fwknop")]
pub use secret::read_secret_from_descriptor;
pub(super) use secret::read_zeroizing;
pub use secret::{read_exposed_secret, read_secret, read_secret_from_stdin};

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Maximum size of a text file: a config with thousands of clients is smaller.
const TEXT_MAX: u64 = 16 << 20;
/// Editors of Windows put it in front of a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Maximum size of a binary file.
const BYTES_MAX: u64 = 1 << 30;

/// Opens a regular file for reading. Anything else in its place (a FIFO, a device, a folder) is refused without
/// blocking.
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

/// Reads a text file that only the user or root can change. Checks owner and mode of the opened file and of all folders
/// above it.
///
/// # Errors
/// When another user can change it, naming the mode and the fix, or as [`read_text`].
#[cfg(unix)]
pub fn read_trusted_text(path: &Path) -> Result<String, FileError> {
    read_text_of(open_trusted(path)?, path)
}

/// Reads a file of at most 1 GiB that only the user or root can change, as [`read_trusted_text`] does.
///
/// # Errors
/// As [`read_trusted_text`].
#[cfg(unix)]
pub fn read_trusted_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    read_bytes_of(open_trusted(path)?, path)
}

#[cfg(unix)]
fn open_trusted(path: &Path) -> Result<File, FileError> {
    // The file is opened by its real path, so that a link that is changed after this cannot lead elsewhere.
    let real = fs::canonicalize(path).map_err(|error| FileError::io(path, &error))?;
    let file = open_plain(&real)?;
    let metadata = file.metadata().map_err(|error| FileError::io(path, &error))?;
    permissions::check_unwritable(path, &metadata)?;
    check_folders_above(path)?;
    Ok(file)
}

/// Reads a text file that only the user or root can change. Checks owner and mode of the opened file and of its folder,
/// as for key files. Other users may read it.
///
/// # Errors
/// When another user can change it, naming the mode and the fix, or as [`read_text`].
pub fn read_own_text(path: &Path) -> Result<String, FileError> {
    let error = |error: io::Error| FileError::io(path, &error);
    // The folder of the file itself matters, not the folder of a link to it.
    let real = fs::canonicalize(path).map_err(error)?;
    let file = open_plain(&real)?;
    permissions::check_unwritable(path, &permissions::of_file(&file).map_err(error)?)?;
    if let Some(folder) = real.parent() {
        check_not_writable_by_others(folder)?;
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
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    Ok(text)
}

/// Reads a complete file of at most 1 GiB.
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

/// Calls `each` for every line of a text file of any length. Lines that are not UTF-8 are skipped.
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

/// The entries of a folder, sorted; empty if the folder does not exist.
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

/// Reads the last `bytes` bytes of a text file. Invalid UTF-8 is replaced.
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

/// The path of a file without links: what must be replaced so that a link to it stays. The same path if it does not exist.
#[cfg(feature = "fwknop")]
#[must_use]
pub fn without_links(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether a file, folder or link of this name exists.
#[must_use]
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Who may read a created file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    /// Only the owner: 0600, folders 0700.
    Private,
    /// Everyone: 0644, folders 0755.
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
    fn an_existing_file_is_overwritten_by_replace_but_not_by_create() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        create_new(&path, FileMode::Private, b"1").unwrap();
        assert!(create_new(&path, FileMode::Private, b"2").is_err());
        assert_eq!(read_text(&path).unwrap(), "1");
        replace(&path, FileMode::Public, b"3").unwrap();
        assert_eq!(read_text(&path).unwrap(), "3");
        assert_eq!(list(scratch.path()).unwrap(), [path]);
    }

    #[test]
    fn a_new_file_is_never_seen_with_a_part_of_its_content() {
        let scratch = tempfile::tempdir().unwrap();
        let content = vec![b'x'; 1 << 20];
        for number in 0..20 {
            let path = scratch.path().join(number.to_string());
            let seen = std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    loop {
                        if let Ok(text) = fs::read(&path) {
                            return text.len();
                        }
                    }
                });
                create_whole(&path, FileMode::Private, &content).unwrap();
                reader.join().unwrap()
            });
            assert_eq!(seen, content.len());
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
            let error = create_whole(&path, FileMode::Private, b"2").unwrap_err().to_string();
            assert!(error.contains("already exists and is not overwritten"), "{error}");
        }
        assert_eq!(list(scratch.path()).unwrap().len(), 20, "nothing else is left");
    }

    #[test]
    fn a_path_that_others_can_change_or_access_is_reported_with_its_mode() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("d");
        create_folder(&path, FileMode::Private).unwrap();
        for (mode, unwritable, private) in
            [(0o700, true, true), (0o755, true, false), (0o775, false, false), (0o1777, true, false)]
        {
            chmod(&path, mode);
            assert_eq!(check_not_writable_by_others(&path).is_ok(), unwritable, "{mode:o}");
            assert_eq!(check_private_folder(&path).is_ok(), private, "{mode:o}");
        }
        chmod(&path, 0o775);
        assert_eq!(
            check_not_writable_by_others(&path).unwrap_err().reason,
            "mode 0775 allows others to change it"
        );
        assert_eq!(check_private_folder(&path).unwrap_err().reason, "mode 0775 allows others to access it");
    }

    #[test]
    fn a_text_that_others_can_change_or_replace_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("d");
        create_folder(&folder, FileMode::Private).unwrap();
        let path = folder.join("f");
        create_new(&path, FileMode::Public, b"text").unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_own_text(&path).unwrap(), "text");
        assert_eq!(read_own_text(&link).unwrap(), "text");
        for (file_mode, folder_mode, reason) in [
            (0o664, 0o755, "mode 0664 allows others to change it"),
            (0o646, 0o755, "mode 0646 allows others to change it"),
            (0o644, 0o777, "mode 0777 allows others to change it"),
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
