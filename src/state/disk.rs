//! The few ways in which the replay state touches its folder, so that a simulated disk can stand in for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::os::files::{self, FileError};

/// A folder of small files on a disk that may lose everything that it was not told to keep.
pub(crate) trait Disk: Clone + Send + 'static {
    /// An open file.
    type File: Send + 'static;

    /// Where the file of this name lies, for people.
    fn place(&self, name: &str) -> String;

    /// What the file of this name holds; `None` when there is none.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError>;

    /// Writes the next version of the file called `name`, on the disk as a whole, where it takes no room that the disk
    /// does not have already, if it is no longer than the reserve. Zeros follow up to `room` bytes, where the disk has
    /// that much. Returns the file and its length.
    fn create(&self, name: &str, content: &[u8], room: usize) -> Result<(Self::File, u64), FileError>;

    /// Gives the version that was created last for `name` this name; the room of the one before is the reserve from now
    /// on. The disk may forget that it is.
    fn adopt(&self, name: &str) -> Result<(), FileError>;

    /// Keeps a reserve of `room` bytes for the next version.
    fn reserve(&self, name: &str, room: u64) -> Result<(), FileError>;

    /// The disk forgets no name from now on.
    fn sync_names(&self) -> Result<(), FileError>;

    /// Writes into a file. A crash of the process loses nothing of it, one of the machine may.
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> Result<(), FileError>;

    /// Cuts what stands at `offset` and after it.
    fn cut(&self, file: &Self::File, offset: u64) -> Result<(), FileError>;

    /// The disk forgets nothing that is in the file.
    fn sync(&self, file: &Self::File) -> Result<(), FileError>;

    /// A file is replaced as a whole: whatever happens, it holds the old content or, from this call's end on, the new.
    fn replace(&self, name: &str, content: &[u8]) -> Result<Self::File, FileError> {
        let (file, _) = self.create(name, content, 0)?;
        self.adopt(name)?;
        self.sync_names()?;
        Ok(file)
    }
}

/// The state folder. Only who holds its lock writes there.
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
        files::take_place(&self.0.join(name))
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
