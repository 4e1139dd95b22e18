//! Reads a file that belongs to another user of this host, under the rules that sshd has for it (`StrictModes`).
#![allow(clippy::disallowed_methods, reason = "part of the module that the rule points to")]

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{FileError, TEXT_MAX, open_plain};

/// Write permission for the group and for others.
const OTHERS_WRITE: u32 = 0o022;
const PERMISSIONS: u32 = 0o7777;
const ROOT: u32 = 0;

/// Reads a text file in the home directory `home` of the user `uid`. The opened file, its directory (also that of a link
/// to it) and `home` must belong to this user or root, and no one else may be able to write to them. Bytes that are not
/// UTF-8 are replaced.
///
/// # Errors
/// When that does not hold, naming the mode and the fix, or the file cannot be read, is not a regular file or is over
/// 16 MiB.
pub fn read_text_of_account(path: &Path, uid: u32, home: &Path) -> Result<String, FileError> {
    let error = |error: io::Error| FileError::io(path, &error);
    // The file is opened by its real path, so that a link that is changed after this cannot lead elsewhere.
    let real = fs::canonicalize(path).map_err(error)?;
    for folder in [Some(home), path.parent(), real.parent()].into_iter().flatten() {
        let metadata = fs::metadata(folder).map_err(|error| FileError::io(folder, &error))?;
        check(folder, &metadata, uid)?;
    }
    let file = open_plain(&real)?;
    check(path, &file.metadata().map_err(error)?, uid)?;
    let mut bytes = Vec::new();
    let read = file.take(TEXT_MAX).read_to_end(&mut bytes).map_err(error)?;
    if u64::try_from(read).is_ok_and(|read| read >= TEXT_MAX) {
        return Err(FileError::new(path, "larger than 16 MiB", None));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn check(path: &Path, metadata: &Metadata, uid: u32) -> Result<(), FileError> {
    let owner = metadata.uid();
    if owner != uid && owner != ROOT {
        return Err(FileError::new(
            path,
            format!("belongs to user {owner}, not to user {uid} or root"),
            Some(format!("chown {uid} {}", path.display())),
        ));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(FileError::new(
            path,
            format!("mode {:04o} allows others to change it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod go-w {}", path.display())),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::tests::chmod;
    use crate::os::files::{FileMode, create_folder, create_new};

    #[test]
    fn a_file_is_read_only_if_no_one_but_its_user_and_root_can_change_or_replace_it() {
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path().join("home");
        let (ssh, elsewhere) = (home.join(".ssh"), scratch.path().join("elsewhere"));
        for folder in [&home, &ssh, &elsewhere] {
            create_folder(folder, FileMode::Private).unwrap();
        }
        let real = elsewhere.join("keys");
        create_new(&real, FileMode::Private, b"key \xff\n").unwrap();
        let path = ssh.join("authorized_keys");
        std::os::unix::fs::symlink(&real, &path).unwrap();
        let uid = fs::metadata(&home).unwrap().uid();
        let read = |uid| read_text_of_account(&path, uid, &home);
        assert_eq!(read(uid).unwrap(), "key \u{fffd}\n");

        for (changed, mode) in
            [(&real, 0o620), (&real, 0o602), (&ssh, 0o1777), (&elsewhere, 0o770), (&home, 0o702)]
        {
            chmod(changed, mode);
            let error = read(uid).unwrap_err();
            assert_eq!(error.reason, format!("mode {mode:04o} allows others to change it"));
            let hint = error.hint.unwrap();
            assert!(hint.starts_with("chmod go-w /") && error.path == hint["chmod go-w ".len()..], "{hint}");
            chmod(changed, 0o700);
            assert!(read(uid).is_ok());
        }
        // To another user, the files of this one are foreign, except those of root.
        assert_eq!(read(uid + 1).is_ok(), uid == ROOT);
        assert!(read_text_of_account(&ssh, uid, &home).unwrap_err().reason.contains("not a regular file"));
        assert!(read_text_of_account(&ssh.join("none"), uid, &home).unwrap_err().missing);
    }

    #[test]
    fn a_file_of_a_third_user_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("authorized_keys");
        create_new(&path, FileMode::Private, b"key\n").unwrap();
        std::os::unix::fs::chown(&path, Some(4_321), None).unwrap();
        assert!(read_text_of_account(&path, 4_321, scratch.path()).is_ok());
        let error = read_text_of_account(&path, 1_234, scratch.path()).unwrap_err();
        assert_eq!(error.reason, "belongs to user 4321, not to user 1234 or root");
        assert_eq!(error.hint.unwrap(), format!("chown 1234 {}", path.display()));
    }
}
