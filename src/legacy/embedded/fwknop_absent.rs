//! Replaces `fwknop.rs` in a build without the feature `fwknop`. Loading a config that names an access.conf fails earlier
//! ([`crate::config`]), so these types are empty.

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::config::{ConfigErrors, ServerConfig};
use crate::console::AdminError;
use crate::control::status::FwknopState;
use crate::legacy::grants::LegacyOutcome;
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::state::StateError;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::knock::{Now, Steady};

/// The content of access.conf; has no values in this build.
pub(crate) enum FwknopFiles {}

impl FwknopFiles {
    pub(super) const fn runs_commands(&self) -> bool {
        match *self {}
    }
}

/// Returns none: this build reads no access.conf.
pub(super) fn load(_: &ServerConfig) -> Result<Option<FwknopFiles>, ConfigErrors> {
    Ok(None)
}

/// The stanzas; always empty in this build.
pub(super) struct FwknopStanzas;

/// The stanzas after a reload; always empty in this build.
pub(super) struct NextFwknopStanzas;

impl FwknopStanzas {
    pub(super) fn start(
        _: &Rc<Result<Program, FileError>>,
        _: &ServerConfig,
        _: Option<&FwknopFiles>,
        _: Start,
    ) -> Result<Self, AdminError> {
        Ok(Self)
    }

    pub(super) fn prepare(
        &mut self,
        _: &ServerConfig,
        _: Option<&FwknopFiles>,
        _: Start,
    ) -> Result<NextFwknopStanzas, AdminError> {
        Ok(NextFwknopStanzas)
    }

    pub(super) fn activate(&mut self, _: NextFwknopStanzas) {}

    pub(super) const fn refuse_until_now(&mut self, _: Now) -> Result<(), StateError> {
        Ok(())
    }

    pub(super) const fn count(&self) -> usize {
        0
    }

    pub(super) fn run_due(&mut self) -> Vec<LegacyOutcome> {
        Vec::new()
    }

    pub(super) fn stop(&mut self) -> Vec<LegacyOutcome> {
        Vec::new()
    }

    pub(super) const fn state(&mut self) -> Option<FwknopState> {
        None
    }
}

impl Polled for FwknopStanzas {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    fn deadline(&self) -> Option<Steady> {
        None
    }
}
