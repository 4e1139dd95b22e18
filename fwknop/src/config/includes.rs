//! Files that a config names. The crate itself reads none.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Reads files. Errors are reasons in lower case.
pub trait ConfigFiles {
    /// The text of a file.
    ///
    /// # Errors
    /// When it cannot be read, or others can read or change it.
    fn read(&mut self, path: &Path) -> Result<Zeroizing<String>, String>;

    /// The files in a directory, in the order of their names.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String>;
}
