//! Replaces `legacy.rs` in a build without the feature `legacy`: no knockd.conf is read and there are no doors.
//! Loading a config with `[legacy]` fails earlier ([`crate::config`]), so these types are empty.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::event_loop::Daemon;
use crate::config::{ConfigErrors, ServerConfig};
use crate::console::AdminError;
use crate::control::status::LegacyState;
use crate::os::files::{self, FileError};
use crate::os::poll::Polled;
use crate::state;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::knock::Steady;

/// A knockd.conf; has no values in this build.
pub(crate) enum KnockdConfig {}

impl KnockdConfig {
    pub(crate) const fn runs_commands(&self) -> bool {
        match *self {}
    }
}

/// Returns none: this build reads no knockd.conf.
pub(crate) fn load(_: &ServerConfig) -> Result<Option<KnockdConfig>, ConfigErrors> {
    Ok(None)
}

/// The doors; always empty in this build.
pub(crate) struct LegacyDoors;

/// The doors after a reload; always empty in this build.
pub(crate) struct NextLegacyDoors;

impl LegacyDoors {
    pub(crate) fn start(
        _: &Rc<Result<Program, FileError>>,
        config: &ServerConfig,
        _: Option<&KnockdConfig>,
        _: Start,
    ) -> Result<Self, AdminError> {
        // Doors that a build with the feature has opened and still had to close.
        let folder = config.state_dir.join("legacy");
        if files::exists(&folder) && state::waiting_undo_tasks(&folder).is_ok_and(|tasks| !tasks.is_empty()) {
            log::error!(
                "{}: knockd doors must still be closed\nhint: run a build with the feature `legacy` once, or close \
                 the doors by hand and remove the directory",
                folder.display()
            );
        }
        Ok(Self)
    }

    pub(crate) fn prepare(
        &mut self,
        _: &ServerConfig,
        _: Option<&KnockdConfig>,
    ) -> Result<NextLegacyDoors, AdminError> {
        Ok(NextLegacyDoors)
    }

    pub(crate) fn activate(&mut self, _: NextLegacyDoors) {}

    pub(crate) const fn count(&self) -> usize {
        0
    }

    pub(crate) fn stop(&mut self) -> Vec<Infallible> {
        Vec::new()
    }

    pub(crate) const fn state(&mut self) -> Option<LegacyState> {
        None
    }
}

impl Polled for LegacyDoors {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    fn deadline(&self) -> Option<Steady> {
        None
    }
}

impl Daemon {
    pub(super) fn run_legacy_due(&mut self) {}

    pub(super) fn note_legacy(&mut self, _: Vec<Infallible>) {}
}
