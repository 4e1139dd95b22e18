//! Replaces `fleet.rs` in a build without the feature `fleet`: a knock acts without a claim. Loading a config with a store
//! fails earlier ([`crate::config`]), so these types are empty.

use std::os::fd::BorrowedFd;

use super::event_loop::Daemon;
use super::health::HealthProblem;
use crate::config::setup::Setup;
use crate::console::AdminError;
use crate::control::status::FleetState;
use crate::ipc::ReplyPath;
use crate::os::poll::Polled;
use crate::supervisor::program::Programs;
use spa_knock_core::auth::{Acceptance, AuditRecord, Authorized};
use spa_knock_core::knock::Steady;

/// The membership in a fleet; there is none in this build.
pub(crate) struct FleetService;

/// The membership after a reload; there is none in this build.
pub(crate) struct NextFleetService;

impl FleetService {
    pub(crate) const fn start(_: &Programs, _: &Setup) -> Result<Self, AdminError> {
        Ok(Self)
    }

    pub(crate) const fn prepare(&self, _: &Setup) -> Result<NextFleetService, AdminError> {
        Ok(NextFleetService)
    }

    pub(crate) fn activate(&mut self, _: NextFleetService, _: &Setup) {}

    pub(crate) const fn has_waiting(&self) -> bool {
        false
    }

    pub(super) const fn check(&self, _: Steady) -> Result<(), HealthProblem> {
        Ok(())
    }

    pub(crate) const fn state(&self, _: &Setup) -> Option<FleetState> {
        None
    }
}

impl Polled for FleetService {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    fn deadline(&self) -> Option<Steady> {
        None
    }
}

impl Daemon {
    pub(super) fn claim(
        &mut self,
        authorized: Authorized,
        _: Option<Acceptance>,
        _: bool,
        reply_path: ReplyPath,
    ) {
        self.execute(authorized, reply_path);
    }

    pub(super) fn run_fleet_due(&mut self) {}

    pub(super) fn settle_claims(&mut self) {}

    pub(super) fn share_grant(&mut self, _: &Authorized) {}

    pub(super) fn withdraw_grant(&mut self, _: &AuditRecord) {}
}
