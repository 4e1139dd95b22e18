//! Opens and checks the programs that belong to this one before they are run.
#![allow(clippy::disallowed_methods, reason = "this module accesses files")]

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::FileError;

/// The file that this process runs, even if another file has its name now.
const OWN_PROGRAM: &str = "/proc/self/exe";
const OTHERS_WRITE: u32 = 0o022;
const EXECUTE: u32 = 0o111;

/// The path of the program that this process runs.
///
/// # Errors
/// When the system does not provide it.
pub fn own_program() -> Result<PathBuf, FileError> {
    let link = Path::new(OWN_PROGRAM);
    fs::read_link(link).map_err(|error| FileError::io(link, &error))
}

/// Opens a program that will be executed by its descriptor. Only root, the current user and the owner of this program
/// may be able to change it. In the folder of `own`, this program's own path, it may also have the owner, group and
/// mode of `own`: anyone who can replace one of them can replace the other.
///
/// # Errors
/// When someone else can change it, naming the fix, or it cannot be opened.
pub fn open_program(path: &Path, own: &Path) -> Result<File, FileError> {
    let io = |error: std::io::Error| FileError::io(path, &error);
    // Non-blocking; otherwise a FIFO in its place would block.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() || metadata.mode() & EXECUTE == 0 {
        let hint = Some(format!("chmod 755 {}", path.display()));
        return Err(FileError::new(path, "is not an executable file", hint));
    }
    // The running file, even if another file has its name now.
    let own_file =
        fs::metadata(OWN_PROGRAM).map_err(|error| FileError::io(Path::new(OWN_PROGRAM), &error))?;
    let is_beside = path.parent() == own.parent();
    if is_beside && is_as_safe(&metadata, &own_file) {
        return Ok(file);
    }
    check(path, &metadata, own_file.uid())?;
    if let (false, Some(folder)) = (is_beside, path.parent()) {
        let metadata = fs::metadata(folder).map_err(|error| FileError::io(folder, &error))?;
        check(folder, &metadata, own_file.uid())?;
    }
    Ok(file)
}

/// Whether everyone who can change `file` can change `own` as well.
fn is_as_safe(file: &Metadata, own: &Metadata) -> bool {
    let who = |metadata: &Metadata| (metadata.uid(), metadata.gid());
    who(file) == who(own) && file.mode() & OTHERS_WRITE & !own.mode() == 0
}

fn check(path: &Path, metadata: &Metadata, owner: u32) -> Result<(), FileError> {
    let (uid, mode) = (metadata.uid(), metadata.mode());
    if ![0, geteuid().as_raw(), owner].contains(&uid) {
        let hint = Some(format!("chown root {}", path.display()));
        return Err(FileError::new(path, format!("belongs to user {uid}, who could change it"), hint));
    }
    if mode & OTHERS_WRITE != 0 {
        let hint = Some(format!("chmod go-w {}", path.display()));
        return Err(FileError::new(
            path,
            format!("mode {:04o} allows others to change it", mode & 0o7777),
            hint,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_that_others_can_change_is_refused_and_a_nonexistent_one_is_missing() {
        let scratch = tempfile::tempdir().unwrap();
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let path = scratch.path().join("program");
        let own = Path::new("/nowhere/own");
        assert!(open_program(&path, own).unwrap_err().missing);
        fs::write(&path, "").unwrap();
        for (mode, folder, refused) in [
            (0o755, 0o755, None),
            (0o775, 0o755, Some("chmod go-w")),
            (0o757, 0o755, Some("chmod go-w")),
            (0o644, 0o755, Some("chmod 755")),
            (0o755, 0o777, Some("chmod go-w")),
        ] {
            chmod(&path, mode);
            chmod(scratch.path(), folder);
            let hint = open_program(&path, own).err().and_then(|error| error.hint);
            assert_eq!(hint.is_some(), refused.is_some(), "{mode:o} in {folder:o}");
            assert!(hint.unwrap_or_default().starts_with(refused.unwrap_or_default()));
        }
        // In the own program's folder, neither the folder's mode matters nor a mode that the own program has too.
        let beside = scratch.path().join("own");
        assert!(open_program(&path, &beside).is_ok());
        let own_mode = fs::metadata(OWN_PROGRAM).unwrap().mode();
        for mode in [0o775, 0o757, 0o777] {
            chmod(&path, mode);
            let is_as_open = mode & OTHERS_WRITE & !own_mode == 0;
            assert_eq!(open_program(&path, &beside).is_ok(), is_as_open, "{mode:o} beside {own_mode:o}");
        }
        let (open, closed) = (fs::metadata(&path).unwrap(), fs::metadata(scratch.path()).unwrap());
        assert!(is_as_safe(&open, &open) && is_as_safe(&closed, &open));
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open_program(&link, own).is_err(), "a link can lead to another file");
    }
}
