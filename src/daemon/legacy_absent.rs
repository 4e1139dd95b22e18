//! In a build without the feature `legacy`: there is no knockd.conf and no door. A config with `[legacy]` is refused
//! before ([`crate::config`]), so the types here have no values but empty ones.

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

/// There is none.
pub(crate) enum KnockdConfig {}

impl KnockdConfig {
    pub(crate) const fn runs_commands(&self) -> bool {
        match *self {}
    }
}

/// Reads no knockd.conf.
pub(crate) fn load(_: &ServerConfig) -> Result<Option<KnockdConfig>, ConfigErrors> {
    Ok(None)
}

/// No doors.
pub(crate) struct LegacyDoors;

/// None after a reload, either.
pub(crate) struct NextLegacyDoors;

impl LegacyDoors {
    pub(crate) fn start(
        _: &Rc<Result<Program, FileError>>,
        config: &ServerConfig,
        _: Option<&KnockdConfig>,
        _: Start,
    ) -> Result<Self, AdminError> {
        // What a build with the feature has opened, and was to close.
        let folder = config.state_dir.join("legacy");
        if files::exists(&folder) && state::waiting_undo_tasks(&folder).is_ok_and(|tasks| !tasks.is_empty()) {
            log::error!(
                "{}: doors of knockd are still to be closed\nhint: run a build with the feature `legacy` once, or close \
                 them by hand and remove the folder",
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
