//! Reads secrets: checks where they are stored, and leaves no copies in memory.
#![allow(clippy::disallowed_methods, reason = "part of the module that the rule points to")]

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

#[cfg(unix)]
use super::check_folders_above;
use super::permissions::{self, open_for_reading};
use super::{BYTE_ORDER_MARK, FileError, io_error_text};

/// Maximum size of a key file.
const SECRET_MAX: usize = 64 << 10;

/// Reads a secret file. The opened file must be a regular file of the user (or root) that no other user can access, in
/// a folder that no other user can write to.
///
/// # Errors
/// When one of these conditions fails, naming the mode and the fix, or the file cannot be read.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FileError> {
    read_secret_below(path, |real| real.parent().map_or(Ok(()), check_folder))
}

/// The same, and no folder above the file may be writable for another user.
///
/// # Errors
/// As [`read_secret`].
#[cfg(unix)]
pub fn read_daemon_secret(path: &Path) -> Result<Zeroizing<String>, FileError> {
    read_secret_below(path, |_| check_folders_above(path))
}

fn check_folder(folder: &Path) -> Result<(), FileError> {
    let found = permissions::of_path(folder).map_err(|error| FileError::io(folder, &error))?;
    permissions::check_folder(folder, &found)
}

fn read_secret_below(
    path: &Path,
    check_folders: impl FnOnce(&Path) -> Result<(), FileError>,
) -> Result<Zeroizing<String>, FileError> {
    // The folder of the file itself matters, not the folder of a link to it.
    let real = fs::canonicalize(path).map_err(|error| FileError::io(path, &error))?;
    let file = open_for_reading(&real).map_err(|error| FileError::io(path, &error))?;
    let metadata = file.metadata().map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_file() {
        return Err(FileError::new(path, "not a regular file", None));
    }
    permissions::check_file(
        path,
        &permissions::of_file(&file).map_err(|error| FileError::io(path, &error))?,
    )?;
    check_folders(&real)?;
    read_zeroizing(file).map_err(|error| FileError::new(path, error, None))
}

/// Reads a secret file even if other users can read it. Only for revoking the key that it contains.
///
/// # Errors
/// When it is not a regular file, or cannot be read.
pub fn read_exposed_secret(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let file = open_for_reading(path).map_err(|error| FileError::io(path, &error))?;
    let metadata = file.metadata().map_err(|error| FileError::io(path, &error))?;
    if !metadata.is_file() {
        return Err(FileError::new(path, "not a regular file", None));
    }
    read_zeroizing(file).map_err(|error| FileError::new(path, error, None))
}

/// Reads a secret from standard input.
///
/// # Errors
/// When it cannot be read, is too long, or is not UTF-8.
pub fn read_secret_from_stdin() -> Result<Zeroizing<String>, FileError> {
    read_zeroizing(io::stdin().lock())
        .map_err(|error| FileError::new(Path::new("standard input"), error, None))
}

/// Reads a secret from an open file descriptor of this process, such as a pipe that a shell has opened.
///
/// # Errors
/// When there is no such descriptor, or as [`read_secret_from_stdin`].
#[cfg(feature = "fwknop")]
pub fn read_secret_from_descriptor(number: u32) -> Result<Zeroizing<String>, FileError> {
    let path = &Path::new("/dev/fd").join(number.to_string());
    let file = fs::File::open(path).map_err(|error| FileError::io(path, &error))?;
    read_zeroizing(file).map_err(|error| FileError::new(path, error, None))
}

pub(in crate::os) fn read_zeroizing(source: impl Read) -> Result<Zeroizing<String>, String> {
    // Allocated once, because a growing buffer would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX.saturating_add(64)));
    let limit = u64::try_from(SECRET_MAX).unwrap_or(u64::MAX);
    source.take(limit).read_to_end(&mut bytes).map_err(|error| io_error_text(&error))?;
    if bytes.len() >= SECRET_MAX {
        return Err("too long for a key file".to_owned());
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| match bytes.as_slice() {
        // As `>` of Windows PowerShell writes it.
        [0xff, 0xfe, ..] => "UTF-16 text; save it as UTF-8".to_owned(),
        _ => "not UTF-8 text".to_owned(),
    })?;
    Ok(Zeroizing::new(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).to_owned()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::os::files::tests::chmod;
    use crate::os::files::{FileMode, create_folder, create_new};

    #[test]
    fn a_secret_is_read_only_from_a_private_regular_file_in_a_private_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("keys");
        create_folder(&folder, FileMode::Private).unwrap();
        let key = folder.join("a.key");
        create_new(&key, FileMode::Private, b"text").unwrap();
        let link = scratch.path().join("link.key");
        std::os::unix::fs::symlink(&key, &link).unwrap();
        assert_eq!(*read_secret(&key).unwrap(), "text");
        assert_eq!(*read_secret(&link).unwrap(), "text");

        for (file_mode, folder_mode, reason) in [
            (0o640, 0o700, "mode 0640 allows others to access it"),
            (0o604, 0o700, "mode 0604 allows others to access it"),
            (0o600, 0o770, "mode 0770 allows others to replace files in this directory"),
            (0o600, 0o707, "mode 0707 allows others to replace files in this directory"),
        ] {
            chmod(&key, file_mode);
            chmod(&folder, folder_mode);
            let error = read_secret(&key).unwrap_err();
            assert_eq!(error.reason, reason);
            assert!(error.hint.unwrap().starts_with("chmod "));
        }
        chmod(&key, 0o600);
        chmod(&folder, 0o700);
        for (content, read) in [
            (&b"\xef\xbb\xbfkind: pair\r\n"[..], Ok("kind: pair\r\n")),
            (b"\xff\xfek\0i\0n\0d\0", Err("UTF-16 text; save it as UTF-8")),
            (b"kind\xff", Err("not UTF-8 text")),
        ] {
            fs::write(&key, content).unwrap();
            let found = read_secret(&key);
            assert_eq!(found.as_ref().map(|text| text.as_str()).map_err(|error| error.reason.as_str()), read);
        }
        fs::write(&key, "text").unwrap();
        chmod(&folder, 0o1777);
        assert!(read_secret(&key).is_ok(), "in a sticky folder, others cannot replace the file");
        assert_eq!(read_secret(&folder).unwrap_err().reason, "not a regular file");
        assert!(read_secret(&folder.join("none")).unwrap_err().missing);
    }
}
