//! For systems without Unix owners and modes, where the protection of the home folder must suffice.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use super::{FileError, FileMode};

pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn check_file(_: &Path, _: &Metadata) -> Result<(), FileError> {
    Ok(())
}

pub(super) fn check_folder(_: &Path, _: &Metadata) -> Result<(), FileError> {
    Ok(())
}

pub(super) fn check_unwritable(_: &Path, _: &Metadata) -> Result<(), FileError> {
    Ok(())
}

pub(super) fn check_executable(_: &Path, _: &Metadata) -> Result<(), FileError> {
    Ok(())
}

pub(super) fn check_private_folder(_: &Path, _: &Metadata) -> Result<(), FileError> {
    Ok(())
}

/// Does nothing: there is no daemon on this system.
pub const fn trust_daemon_user(_: &str, _: &Path) {}

/// Always false: there is no daemon on this system.
#[must_use]
pub const fn trusts_daemon_user() -> bool {
    false
}

pub(super) fn give_to_trusted_owner(_: &File, _: &Path) -> Result<(), FileError> {
    Ok(())
}

pub(super) fn refuse_links(_: &mut OpenOptions) {}

pub(super) fn set_mode(_: &mut OpenOptions, _: FileMode) {}

pub(super) fn create_folder(path: &Path, _: FileMode) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

pub(super) fn sync_folder(_: &Path) -> Result<(), FileError> {
    Ok(())
}
