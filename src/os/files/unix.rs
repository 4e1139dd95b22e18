//! Who may read and write a file, where files have an owner and a mode.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::OFlag;

use super::{FileError, FileMode};

const OTHERS_READ: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const EXECUTE: u32 = 0o111;
const STICKY: u32 = 0o1000;
const PERMISSIONS: u32 = 0o7777;

/// No user has this number (chown(2) reads it as "leave it").
const NO_USER: u32 = u32::MAX;
/// A user besides us and root whose files are trusted.
static DAEMON_USER: AtomicU32 = AtomicU32::new(NO_USER);

/// Where we are root and `folder` belongs to the user `name`, files of that user are trusted from now on, as the daemon
/// that runs as that user trusts them; and what we write into that user's folders is given to that user. For commands
/// of the admin's, never for a daemon: one that runs as root would otherwise obey a user that is not.
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

/// Whether files of a user besides us and root are trusted.
#[must_use]
pub fn trusts_daemon_user() -> bool {
    DAEMON_USER.load(Ordering::Relaxed) != NO_USER
}

/// A file that we have opened in a folder of the daemon's user belongs to that user, too: it must be able to read it.
pub(super) fn give_to_trusted_owner(file: &File, path: &Path) -> Result<(), FileError> {
    let user = DAEMON_USER.load(Ordering::Relaxed);
    if user == NO_USER {
        return Ok(());
    }
    let given = folder_of(path).metadata().and_then(|folder| {
        let is = file.metadata()?;
        // That user could have put another name of a file of root's there.
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

/// Non-blocking, or a FIFO in a file's place would hang us before its kind is checked.
pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

pub(super) fn check_file(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    check_owner(path, metadata)?;
    if metadata.mode() & OTHERS_READ != 0 {
        return Err(FileError::new(
            path,
            format!("mode {:04o} lets others at it", metadata.mode() & PERMISSIONS),
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
                "mode {:04o} lets others replace the files in this folder",
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
            format!("mode {:04o} lets others change it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod go-w {}", path.display())),
        ));
    }
    Ok(())
}

pub(super) fn check_executable(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    if metadata.mode() & EXECUTE == 0 {
        return Err(FileError::new(
            path,
            format!("mode {:04o} lets no one run it", metadata.mode() & PERMISSIONS),
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
            format!("mode {:04o} lets others into it", metadata.mode() & PERMISSIONS),
            Some(format!("chmod 700 {}", path.display())),
        ));
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let us = nix::unistd::geteuid().as_raw();
    let owner = metadata.uid();
    if owner != us && owner != 0 && owner != DAEMON_USER.load(Ordering::Relaxed) {
        return Err(FileError::new(
            path,
            format!("belongs to user {}, neither to user {us} nor to root", metadata.uid()),
            Some(format!("chown {us} {}", path.display())),
        ));
    }
    Ok(())
}

pub(super) fn refuse_links(options: &mut OpenOptions) {
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
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
    // A link in its place leads to a folder that is not ours to give away.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
    let folder = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    give_to_trusted_owner(&folder, path).map_err(io::Error::other)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| FileError::io(folder, &error))
}
