//! Several servers, one knock: before a knock acts, its claim must be won in the store of the fleet. What the store process
//! reports is carried out here.

mod claims;
mod grants;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::event_loop::Daemon;
use super::health::HealthProblem;
use crate::config::setup::Setup;
use crate::console::AdminError;
use crate::control::status::{FleetEndpoint, FleetMemberState, FleetState};
use crate::fleet::ipc::StoreReport;
use crate::fleet::keeper::member::{FleetEvent, FleetMember};
use crate::fleet::keeper::member_grants::GrantChange;
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::supervisor::program::{Program, Programs};
use spa_knock_core::knock::Steady;

/// The membership in a fleet, if the config has one.
pub(crate) struct FleetService {
    program: StoreProgram,
    member: Option<Box<FleetMember>>,
}

/// The membership after a reload; none if it stays the same.
pub(crate) struct NextFleetService(Option<Option<Box<FleetMember>>>);

type StoreProgram = Arc<Result<Program, FileError>>;

impl FleetService {
    /// Reads the files of the fleet, and starts the store process in the background.
    ///
    /// # Errors
    /// If a file is missing or unusable.
    pub(crate) fn start(programs: &Programs, setup: &Setup) -> Result<Self, AdminError> {
        let program = StoreProgram::clone(&programs.store);
        let member = FleetMember::open(&program, setup)?.map(Box::new);
        Ok(Self { program, member })
    }

    /// Prepares the membership for another config.
    ///
    /// # Errors
    /// If a file is missing or unusable. Nothing has changed in this case.
    pub(crate) fn prepare(&self, setup: &Setup) -> Result<NextFleetService, AdminError> {
        if self.member.as_ref().is_some_and(|member| member.is_for(setup)) {
            return Ok(NextFleetService(None));
        }
        let member = FleetMember::open(&self.program, setup)?.map(Box::new);
        Ok(NextFleetService(Some(member)))
    }

    /// Replaces the membership. No knock must wait.
    pub(crate) fn activate(&mut self, NextFleetService(next): NextFleetService, setup: &Setup) {
        if let Some(mut next) = next {
            if let (Some(member), Some(before)) = (&mut next, self.member.take()) {
                member.continue_from(*before);
            }
            self.member = next;
        }
        if let Some(member) = &mut self.member {
            member.set_policy(setup);
        }
    }

    /// Whether knocks wait for the store.
    pub(crate) fn has_waiting(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.has_waiting())
    }

    /// Whether knocks can be granted: the store answers, or the config permits some while it does not.
    pub(super) fn check(&self, now: Steady) -> Result<(), HealthProblem> {
        let is_able = self
            .member
            .as_ref()
            .is_none_or(|member| member.problem(now).is_none() || member.can_do_without(now));
        if is_able { Ok(()) } else { Err(HealthProblem::FleetStore) }
    }

    /// The fleet's part of the daemon status.
    pub(crate) fn state(&self, setup: &Setup) -> Option<FleetState> {
        let member = self.member.as_ref()?;
        let now = clock::steady();
        let (settings, report) = (member.settings(), member.report());
        let endpoints = report.map(|report| report.endpoints.clone()).unwrap_or_default();
        let members = report.map(|report| report.members.clone()).unwrap_or_default();
        Some(FleetState {
            name: settings.name.to_string(),
            member: settings.member.to_string(),
            problem: member.problem(now),
            silent_ms: member
                .silent_for(now)
                .map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| FleetEndpoint { url: endpoint.url, problem: endpoint.problem })
                .collect(),
            members: members
                .into_iter()
                .map(|other| FleetMemberState {
                    same_policy: other.policy_digest == member.digest(),
                    name: other.name,
                    address: other.address,
                    version: other.version,
                    offset_ms: other.offset_ms,
                })
                .collect(),
            revision: member.revision(),
            waiting: member.waiting(),
            claims: member.stats.counts(),
            times: member.stats.times(),
            warnings: report.map(warnings).unwrap_or_default(),
            left_out: setup.config.left_out.iter().map(ToString::to_string).collect(),
        })
    }
}

/// What the administrator should repair although the store answers.
fn warnings(report: &StoreReport) -> Vec<String> {
    let full = report.out_of_space.then(|| {
        "the store's database is full: grants and records of members are not written; compact and defragment it, then: etcdctl alarm disarm"
            .to_owned()
    });
    let clock = report.own_clock_off_ms.map(|offset| {
        let seconds = offset.unsigned_abs().checked_div(1_000).unwrap_or_default();
        let direction = if offset < 0 { "behind" } else { "ahead of" };
        format!("the clock of this server is {seconds} s {direction} the fleet; synchronize it")
    });
    full.into_iter().chain(clock).collect()
}

impl Polled for FleetService {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        if let Some(member) = &self.member {
            member.fds(out);
        }
    }

    fn deadline(&self) -> Option<Steady> {
        self.member.as_ref().and_then(|member| member.deadline())
    }
}

impl Daemon {
    /// Receives what the store process has sent, and does what is due.
    pub(super) fn run_fleet_due(&mut self) {
        let Some(member) = &mut self.fleet.member else { return };
        member.run_due(clock::now());
        let events = member.take_events();
        self.resume_claimed();
        let mut opened = Vec::new();
        let mut must_reload = false;
        for event in events {
            match event {
                FleetEvent::ClientsChanged => must_reload = true,
                FleetEvent::Revoked(fingerprint) => drop(self.drop_client(&fingerprint)),
                FleetEvent::Grant(GrantChange::Open(id, grant, left)) => opened.push((id, grant, left)),
                FleetEvent::Grant(GrantChange::Close { client, action, accesses }) => {
                    self.open_for_members(std::mem::take(&mut opened));
                    let closed = self.executor.gate().close(&|live| {
                        live.client == client && live.action == action && accesses.contains(&live.access)
                    });
                    match closed {
                        Ok(closed) => closed.into_iter().for_each(|live| self.audit(&live.record())),
                        Err(error) => log::error!("fleet: a grant could not be revoked: {error}"),
                    }
                }
            }
        }
        self.open_for_members(opened);
        if must_reload {
            // The reason of a failure is in the log.
            let _ = self.reload();
        }
    }
}
