//! Permission checks for systems where files have an owner and a mode.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::OFlag;

use super::{FileError, FileMode};

/// Owner and mode of an opened file.
pub(super) fn of_file(file: &File) -> io::Result<Metadata> {
    file.metadata()
}

/// Owner and mode of a file or folder.
pub(super) fn of_path(path: &Path) -> io::Result<Metadata> {
    std::fs::metadata(path)
}

const OTHERS_READ: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const EXECUTE: u32 = 0o111;
const STICKY: u32 = 0o1000;
const PERMISSIONS: u32 = 0o7777;

/// No user has this id (chown(2) interprets it as "unchanged").
const NO_USER: u32 = u32::MAX;
/// Another user whose files are trusted, besides the current user and root.
static DAEMON_USER: AtomicU32 = AtomicU32::new(NO_USER);

/// Trusts files of the user `name` from now on, if this process is root and `folder` belongs to that user, as the
/// daemon that runs as that user does. Files that this process writes into that user's folders are then given to that
/// user. For administrator commands, never for a daemon: a daemon running as root would otherwise obey an unprivileged
/// user.
pub fn trust_daemon_user(name: &str, folder: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let owner = std::fs::metadata(folder).map_or(NO_USER, |metadata| metadata.uid());
    let user = nix::unistd::User::from_name(name).ok().flatten();
    if user.is_some_and(|user| user.uid.as_raw() == owner && owner != 0) {
        DAEMON_USER.store(owner, Ordering::Relaxed);
    }
}

/// Whether files of another user are trusted, besides those of the current user and root.
#[must_use]
pub fn trusts_daemon_user() -> bool {
    DAEMON_USER.load(Ordering::Relaxed) != NO_USER
}

/// Gives a file that this process has opened in a folder of the daemon's user to that user, who must be able to read
/// it.
fn give_to_trusted_owner(file: &File, path: &Path) -> Result<(), FileError> {
    let user = DAEMON_USER.load(Ordering::Relaxed);
    if user == NO_USER {
        return Ok(());
    }
    let given = folder_of(path).metadata().and_then(|folder| {
        let is = file.metadata()?;
        // The user could have created a hard link to a file of root there.
        let has_other_names = is.is_file() && is.nlink() != 1;
        if folder.uid() != user || is.uid() == user || has_other_names {
            return Ok(());
        }
        fchown(file, Some(folder.uid()), Some(folder.gid()))
    });
    given.map_err(|error| FileError::io(path, &error))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Non-blocking; otherwise a FIFO in a file's place would block before its type is checked.
pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

pub(super) fn check_file(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    check_owner(path, metadata)?;
    if metadata.mode() & OTHERS_READ != 0 {
        return Err(FileError::new(
            path,
            format!("mode {:04o} allows others to access it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod 600 {}", path.display())),
        ));
    }
    Ok(())
}

pub(super) fn check_folder(folder: &Path, metadata: &Metadata) -> Result<(), FileError> {
    check_owner(folder, metadata)?;
    // In a sticky folder (/tmp) others can create files, but not replace ours.
    if metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0 {
        return Err(FileError::new(
            folder,
            format!(
                "mode {:04o} allows others to replace files in this directory",
                metadata.mode() & PERMISSIONS
            ),
            Some(format!("chmod go-w {}", folder.display())),
        ));
    }
    Ok(())
}

pub(super) fn check_unwritable(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    check_owner(path, metadata)?;
    let sticky_folder = metadata.is_dir() && metadata.mode() & STICKY != 0;
    if metadata.mode() & OTHERS_WRITE != 0 && !sticky_folder {
        return Err(FileError::new(
            path,
            format!("mode {:04o} allows others to change it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod go-w {}", path.display())),
        ));
    }
    Ok(())
}

pub(super) fn check_executable(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    if metadata.mode() & EXECUTE == 0 {
        return Err(FileError::new(
            path,
            format!("mode {:04o} does not allow anyone to run it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod 755 {}", path.display())),
        ));
    }
    Ok(())
}

pub(super) fn check_private_folder(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    check_owner(path, metadata)?;
    if metadata.mode() & OTHERS_READ != 0 {
        return Err(FileError::new(
            path,
            format!("mode {:04o} allows others to access it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod 700 {}", path.display())),
        ));
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let own_uid = nix::unistd::geteuid().as_raw();
    let owner = metadata.uid();
    if owner != own_uid && owner != 0 && owner != DAEMON_USER.load(Ordering::Relaxed) {
        return Err(FileError::new(
            path,
            format!("belongs to user {}, not to user {own_uid} or root", metadata.uid()),
            Some(format!("chown {own_uid} {}", path.display())),
        ));
    }
    Ok(())
}

pub(super) fn refuse_links(options: &mut OpenOptions) {
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
}

/// For a file that must not exist yet.
pub(super) fn set_new_mode(options: &mut OpenOptions, mode: FileMode) {
    set_mode(options, mode);
}

/// Completes the permissions of a file that was just opened with [`set_mode`] or [`set_new_mode`].
pub(super) fn complete(file: &mut File, path: &Path, _: FileMode) -> Result<(), FileError> {
    give_to_trusted_owner(file, path)
}

pub(super) fn set_mode(options: &mut OpenOptions, mode: FileMode) {
    options.mode(match mode {
        FileMode::Private => 0o600,
        FileMode::Public => 0o644,
    });
}

pub(super) fn create_folder(path: &Path, mode: FileMode) -> io::Result<()> {
    let mode = match mode {
        FileMode::Private => 0o700,
        FileMode::Public => 0o755,
    };
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    // A symbolic link in its place could lead to a folder of someone else.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
    let folder = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    give_to_trusted_owner(&folder, path).map_err(io::Error::other)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| FileError::io(folder, &error))
}
