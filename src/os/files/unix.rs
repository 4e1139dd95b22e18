//! Who may read and write a file, where files have an owner and a mode.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::{FileError, Mode};

const OTHERS_READ: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const PERMISSIONS: u32 = 0o7777;

pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    // Non-blocking, or a FIFO in the key's place would hang us before its kind is checked.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
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
                "mode {:04o} lets others replace the key file in this folder",
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
    if metadata.uid() != us && metadata.uid() != 0 {
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

pub(super) fn set_mode(options: &mut OpenOptions, mode: Mode) {
    options.mode(match mode {
        Mode::Private => 0o600,
        Mode::Public => 0o644,
    });
}

pub(super) fn create_folder(path: &Path, mode: Mode) -> io::Result<()> {
    let mode = match mode {
        Mode::Private => 0o700,
        Mode::Public => 0o755,
    };
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| FileError::io(folder, &error))
}
