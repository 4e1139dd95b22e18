//! The program of a watcher: found and checked once, when the daemon starts. From then on the open file is executed, so
//! an upgrade of the files on disk does not mix versions.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::os::files::{self, FileError};

/// The folder of programs that no one runs by hand, relative to the parent of the folder of `spa-knockd`.
const LIBEXEC: &str = "libexec/spa-knock";

/// The programs of a daemon that may have either watcher.
pub(crate) struct Programs {
    pub(crate) watcher: Rc<Program>,
    /// An error matters only if knock sequences are configured.
    pub(crate) legacy: [Rc<Result<Program, FileError>>; 2],
    /// An error matters only if a fleet with a store is configured.
    #[cfg(feature = "fleet")]
    pub(crate) store: std::sync::Arc<Result<Program, FileError>>,
}

impl Programs {
    /// Finds them. Must be called before privileges are dropped: they may be in a folder that only root can read.
    ///
    /// # Errors
    /// If the native watcher does not exist, or others can change it.
    pub(crate) fn find() -> Result<Self, FileError> {
        Ok(Self {
            watcher: Rc::new(Program::find(Program::WATCHER)?),
            legacy: Program::LEGACY_WATCHERS.map(|name| Rc::new(Program::find(name))),
            #[cfg(feature = "fleet")]
            store: std::sync::Arc::new(Program::find(Program::STORE)),
        })
    }
}

/// A watcher's program.
pub(crate) struct Program {
    name: &'static str,
    path: PathBuf,
    file: File,
}

impl Program {
    /// The native watcher.
    pub(crate) const WATCHER: &'static str = "spa-knock-watcher";
    /// The store process of a fleet.
    #[cfg(feature = "fleet")]
    pub(crate) const STORE: &'static str = "spa-knock-store";
    /// The watchers for knockd's knock sequences and for fwknop's packets.
    pub(crate) const LEGACY_WATCHERS: [&'static str; 2] =
        ["spa-knock-legacy-watcher", "spa-knock-fwknop-watcher"];

    /// Finds the program: in the folder of this program, where cargo puts it, or else in `libexec/spa-knock` beside
    /// that folder, where packages put it (/usr/libexec/spa-knock for /usr/sbin/spa-knockd).
    ///
    /// # Errors
    /// If it is in neither, or anyone except root and the owner of this program can change it.
    pub(crate) fn find(name: &'static str) -> Result<Self, FileError> {
        let own = files::own_program()?;
        let beside = own.parent().unwrap_or(Path::new("/"));
        let libexec = beside.parent().unwrap_or(Path::new("/")).join(LIBEXEC);
        for folder in [beside, &libexec] {
            let path = folder.join(name);
            match files::open_program(&path, &own) {
                Err(error) if error.missing => {}
                opened => return Ok(Self { name, file: opened?, path }),
            }
        }
        Err(FileError {
            path: name.to_owned(),
            reason: format!("neither in {} nor in {}", beside.display(), libexec.display()),
            hint: Some("install it together with spa-knockd, to which it belongs".to_owned()),
            missing: true,
            denied: false,
        })
    }

    /// The program in this file, for a test.
    #[cfg(all(test, feature = "fleet"))]
    pub(crate) fn of_test(name: &'static str, path: PathBuf) -> Result<Self, FileError> {
        Ok(Self { name, file: files::open_program(&path, &path)?, path })
    }

    /// Its name.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
