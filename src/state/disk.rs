//! The few operations of the replay state on its directory. Tests replace them with a simulated disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::os::files::{self, FileError};

/// A directory of small files on a disk that can lose everything that has not been synced.
pub(crate) trait Disk: Clone + Send + 'static {
    /// An open file.
    type File: Send + 'static;

    /// The path of a file, for messages.
    fn place(&self, name: &str) -> String;

    /// The content of a file; `None` if it does not exist.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError>;

    /// Writes the next version of file `name` and syncs it. A version that is not longer than the reserve needs no new
    /// disk space. The file is padded with zeros up to `room` bytes if there is enough space. Returns the file and its
    /// length.
    fn create(&self, name: &str, content: &[u8], room: usize) -> Result<(Self::File, u64), FileError>;

    /// Renames the version that was last created for `name` to this name. The space of the previous version becomes the
    /// reserve. A crash can undo the rename until names are synced.
    fn adopt(&self, name: &str) -> Result<(), FileError>;

    /// Reserves `room` bytes of disk space for the next version.
    fn reserve(&self, name: &str, room: u64) -> Result<(), FileError>;

    /// Syncs the names of the directory.
    fn sync_names(&self) -> Result<(), FileError>;

    /// Writes to a file. A crash of the process loses none of it; a crash of the machine can.
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> Result<(), FileError>;

    /// Truncates the file at `offset`.
    fn cut(&self, file: &Self::File, offset: u64) -> Result<(), FileError>;

    /// Syncs the content of the file.
    fn sync(&self, file: &Self::File) -> Result<(), FileError>;

    /// Replaces a file atomically: it holds the old content and, after this call returns, durably the new content.
    fn replace(&self, name: &str, content: &[u8]) -> Result<Self::File, FileError> {
        let (file, _) = self.create(name, content, 0)?;
        self.adopt(name)?;
        self.sync_names()?;
        Ok(file)
    }
}

/// The state directory. Only the process that holds its lock writes there.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Disk for Folder {
    type File = (File, PathBuf);

    fn place(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        match files::read_bytes(&self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.missing => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str, content: &[u8], room: usize) -> Result<(Self::File, u64), FileError> {
        let path = self.0.join(name);
        let (file, length) = files::prepare(&path, content, room)?;
        Ok(((file, path), length))
    }

    fn adopt(&self, name: &str) -> Result<(), FileError> {
        files::swap_in(&self.0.join(name))
    }

    fn reserve(&self, name: &str, room: u64) -> Result<(), FileError> {
        files::reserve(&self.0.join(name), room)
    }

    fn sync_names(&self) -> Result<(), FileError> {
        files::sync_folder(&self.0)
    }

    fn write_at(&self, (file, path): &Self::File, bytes: &[u8], offset: u64) -> Result<(), FileError> {
        file.write_all_at(bytes, offset).map_err(|error| FileError::io(path, &error))
    }

    fn cut(&self, (file, path): &Self::File, offset: u64) -> Result<(), FileError> {
        file.set_len(offset).map_err(|error| FileError::io(path, &error))
    }

    fn sync(&self, (file, path): &Self::File) -> Result<(), FileError> {
        file.sync_all().map_err(|error| FileError::io(path, &error))
    }
}
