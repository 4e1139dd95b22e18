//! Replaces `legacy.rs` in a build without the feature `legacy`: no knockd.conf and no access.conf is read. Loading a config
//! with `[legacy]` fails earlier ([`crate::config`]), so these types are empty.

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::event_loop::Daemon;
use crate::config::{ConfigErrors, ServerConfig};
use crate::console::AdminError;
use crate::control::status::{FwknopState, LegacyState};
use crate::os::files::{self, FileError};
use crate::os::poll::Polled;
use crate::state::{self, StateError};
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::knock::{Now, Steady};

/// What `[legacy]` names; nothing in this build.
pub(crate) struct LegacyFiles;

impl LegacyFiles {
    pub(crate) const fn runs_commands(&self) -> bool {
        false
    }
}

/// Returns none: this build reads no files of other programs.
pub(crate) fn load(_: &ServerConfig) -> Result<LegacyFiles, ConfigErrors> {
    Ok(LegacyFiles)
}

/// The doors and stanzas; always empty in this build.
pub(crate) struct LegacyServices;

/// The doors and stanzas after a reload; always empty in this build.
pub(crate) struct NextLegacyServices;

impl LegacyServices {
    pub(crate) fn start(
        _: &[Rc<Result<Program, FileError>>; 2],
        config: &ServerConfig,
        _: &LegacyFiles,
        _: Start,
    ) -> Result<Self, AdminError> {
        // What a build with the feature has opened and still had to close.
        for name in ["legacy", "fwknop"] {
            let folder = config.state_dir.join(name);
            if files::exists(&folder)
                && state::waiting_undo_tasks(&folder).is_ok_and(|tasks| !tasks.is_empty())
            {
                log::error!(
                    "{}: knockd doors or fwknop cycles must still be closed\nhint: run a build with the feature \
                     `{name}` once, or close them by hand and remove the directory",
                    folder.display()
                );
            }
        }
        Ok(Self)
    }

    pub(crate) fn prepare(
        &mut self,
        _: &ServerConfig,
        _: &LegacyFiles,
    ) -> Result<NextLegacyServices, AdminError> {
        Ok(NextLegacyServices)
    }

    pub(crate) fn activate(&mut self, _: NextLegacyServices) {}

    pub(crate) const fn refuse_until_now(&mut self, _: Now) -> Result<(), StateError> {
        Ok(())
    }

    pub(crate) const fn summary(&self) -> &'static str {
        ""
    }

    pub(crate) const fn state(&mut self) -> (Option<LegacyState>, Option<FwknopState>) {
        (None, None)
    }
}

impl Polled for LegacyServices {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    fn deadline(&self) -> Option<Steady> {
        None
    }
}

impl Daemon {
    pub(super) fn run_legacy_due(&mut self) {}

    pub(super) fn stop_legacy(&mut self) {}
}
