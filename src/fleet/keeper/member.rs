//! This server as a member of its fleet: the store process and what comes from it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::basis::Basis;
use super::claims::{ClaimStats, ClaimedKnock, PendingKnock, WaitingClaims};
use super::member_grants::{GrantChange, MemberGrants};
use super::mirrored_clients::MirroredClients;
use super::process::StoreProcess;
use crate::config::policy_digest::PolicyDigest;
use crate::config::setup::Setup;
use crate::config::{EtcdSettings, GrantScope, WhenLost};
use crate::console::AdminError;
use crate::fleet::files::FleetFiles;
use crate::fleet::ipc::{StoreReport, ToStore};
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::worker::Worker;
use crate::os::{clock, files, host};
use crate::supervisor::program::Program;
use crate::supervisor::restart::Restart;
use spa_knock_core::auth::{AuditRecord, Authorized};
use spa_knock_core::knock::{Now, Steady};
use spa_knock_fleet::keys::KeySpace;
use spa_knock_fleet::rollback::StoreMark;

/// A store that has not answered for this long counts as lost.
const SILENCE: Duration = Duration::from_secs(4);

/// What the daemon must do.
pub(crate) enum FleetEvent {
    /// A key was revoked: drop its client.
    Revoked(String),
    /// A grant of another member began or ended.
    Grant(GrantChange),
    /// The files of clients have changed: reload.
    ClientsChanged,
}

/// A finished task of the worker thread.
pub(super) enum Finished {
    Started(Result<StoreProcess, String>),
    Written(Result<StoreMark, FileError>),
}

/// The member.
pub(crate) struct FleetMember {
    pub(super) basis: Basis,
    pub(super) program: Arc<Result<Program, FileError>>,
    pub(super) space: KeySpace,
    pub(super) process: Option<StoreProcess>,
    pub(super) is_starting: bool,
    pub(super) restart: Restart,
    pub(super) worker: Worker<Finished>,
    pub(super) waiting: WaitingClaims,
    pub(super) claimed: Vec<ClaimedKnock>,
    pub(super) events: VecDeque<FleetEvent>,
    pub(super) policy: MirroredClients,
    pub(super) grants: MemberGrants,
    pub(crate) stats: ClaimStats,
    /// The last report, and when it arrived.
    pub(super) report: Option<(StoreReport, Steady)>,
    pub(super) revision: u64,
    /// Whether clients have changed since the last revision.
    pub(super) has_policy_changes: bool,
    /// When changes of clients were last received.
    pub(super) last_complete: Option<Steady>,
    /// Whether everything was read since the process was started: before, a revocation can be unknown.
    pub(super) is_synced: bool,
    /// The mark on disk.
    pub(super) mark: Option<StoreMark>,
    pub(super) is_writing: bool,
    pub(super) mark_due: Steady,
    pub(super) address: String,
    pub(super) digest: String,
    /// What was last sent for the member's record.
    pub(super) described: Option<(u64, String)>,
    /// Why the process does not run, or does not start.
    pub(super) problem: Option<String>,
}

impl FleetMember {
    /// Reads the files of the fleet. The store process is started in the background.
    ///
    /// # Errors
    /// If a file is missing or unusable.
    pub(crate) fn open(
        program: &Arc<Result<Program, FileError>>,
        setup: &Setup,
    ) -> Result<Option<Self>, AdminError> {
        let Some(basis) = Basis::of(setup) else { return Ok(None) };
        if let Err(error) = &**program {
            return Err(AdminError::run(error));
        }
        let space = KeySpace::new(&basis.settings.name);
        let key = FleetFiles::of(&basis.settings).read_key(&basis.settings.name).map_err(AdminError::run)?;
        let policy = MirroredClients::open(key.clone(), space.clone(), &basis.state_dir, &setup.config.id)
            .map_err(AdminError::run)?;
        let mark = basis.read_mark().map_err(AdminError::run)?;
        let worker = Worker::start().map_err(|error| {
            AdminError::run(format_args!("worker thread: {}", files::io_error_text(&error)))
        })?;
        let now = clock::steady();
        let mut restart = Restart::new();
        restart.hurry();
        let mut member = Self {
            basis,
            program: Arc::clone(program),
            grants: MemberGrants::new(key, space.clone()),
            space,
            process: None,
            is_starting: false,
            restart,
            worker,
            waiting: WaitingClaims::default(),
            claimed: Vec::new(),
            events: VecDeque::new(),
            policy,
            stats: ClaimStats::default(),
            report: None,
            revision: 0,
            has_policy_changes: false,
            last_complete: None,
            is_synced: false,
            mark,
            is_writing: false,
            mark_due: now,
            address: String::new(),
            digest: String::new(),
            described: None,
            problem: None,
        };
        member.set_policy(setup);
        Ok(Some(member))
    }

    /// Whether a member with this config would be the same one: then it continues.
    pub(crate) fn is_for(&self, setup: &Setup) -> bool {
        let on_disk = || self.basis.read_mark().ok();
        // `fleet accept-store` writes another mark.
        let is_accepted = self.went_back() && on_disk().as_ref() != Some(&self.mark);
        Basis::of(setup).as_ref() == Some(&self.basis) && !is_accepted
    }

    /// Uses the counters of the member that this one replaces.
    pub(crate) fn continue_from(&mut self, before: Self) {
        self.stats = before.stats;
    }

    /// The policy has changed: the others compare its digest.
    pub(crate) fn set_policy(&mut self, setup: &Setup) {
        let config = &setup.config;
        self.address = config.address.clone().or_else(host::name).unwrap_or_else(|| "unknown".to_owned());
        self.digest = PolicyDigest::of_fleet(setup);
    }

    /// The settings.
    pub(crate) const fn settings(&self) -> &EtcdSettings {
        &self.basis.settings
    }

    /// Makes a knock wait until its claim is decided.
    ///
    /// # Errors
    /// The knock and the reason why it cannot be claimed.
    #[expect(clippy::result_large_err, reason = "the knock is not moved far")]
    pub(crate) fn claim(&mut self, knock: PendingKnock, now: Steady) -> Result<(), (PendingKnock, String)> {
        let Some(process) = &self.process else {
            let why = self.problem.clone().unwrap_or_else(|| "the store process is starting".to_owned());
            return Err((knock, why));
        };
        if !self.is_synced {
            return Err((knock, "the clients of the fleet have not been read from the store yet".to_owned()));
        }
        let message = self.waiting.add(knock, now)?;
        let ticket = message.ticket;
        if process.try_send(&ToStore::Claim(message)) {
            return Ok(());
        }
        match self.waiting.take(ticket) {
            Some(knock) => Err((knock, "the store process does not read".to_owned())),
            None => Ok(()),
        }
    }

    /// Publishes what a knock has opened, so that all members open it.
    pub(crate) fn publish(&mut self, authorized: &Authorized, now: Now) {
        if self.basis.settings.grants == GrantScope::All
            && let Some(message) = self.grants.publish(authorized, now)
        {
            self.send(&message);
        }
    }

    /// Withdraws grants that were revoked here.
    pub(crate) fn note_revoked(&mut self, record: &AuditRecord, now: Steady) {
        let message = self.grants.withdraw(&record.client, record.action.as_ref(), &record.addresses, now);
        if let Some(message) = message {
            self.send(&message);
        }
    }

    /// Receives what the store process has sent, and does what is due. The results are taken with
    /// [`FleetMember::take_claimed`] and [`FleetMember::take_events`].
    pub(crate) fn run_due(&mut self, now: Now) {
        for finished in self.worker.finished() {
            match finished {
                Finished::Started(started) => self.note_started(started, now.steady),
                Finished::Written(written) => self.note_written(written),
            }
        }
        self.receive(now);
        while let Some(knock) = self.waiting.take_due(now.steady) {
            self.give_up(knock, "no answer within 1.5 s");
        }
        if !self.is_starting && self.process.is_none() && self.restart.take_due() {
            self.start();
        }
        self.describe();
        self.write_mark(now.steady);
    }

    /// The knocks whose claims are decided.
    pub(crate) fn take_claimed(&mut self) -> Vec<ClaimedKnock> {
        std::mem::take(&mut self.claimed)
    }

    /// What the daemon must do.
    pub(crate) fn take_events(&mut self) -> VecDeque<FleetEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether knocks wait for the store.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.len() > 0 || !self.claimed.is_empty()
    }

    /// For how long the store has not answered; none = it has not since the start.
    pub(crate) fn silent_for(&self, now: Steady) -> Option<Duration> {
        let (report, at) = self.report.as_ref()?;
        Some(Duration::from_millis(report.silent_ms?).saturating_add(now.since(*at)))
    }

    /// Whether a revocation could have been missed for longer than the config permits.
    pub(crate) fn is_cut_off(&self, now: Steady) -> bool {
        let reported = self.report.as_ref().and_then(|(report, at)| {
            Some(Duration::from_millis(report.watch_silent_ms?).saturating_add(now.since(*at)))
        });
        // The first report comes up to a second after everything was read.
        let complete = self.last_complete.map(|at| now.since(at));
        let unwatched = reported.into_iter().chain(complete).min();
        unwatched.is_none_or(|unwatched| unwatched > self.basis.settings.revoked_within)
    }

    /// Whether the config permits harmless knocks without the store, now.
    pub(crate) fn can_do_without(&self, now: Steady) -> bool {
        self.basis.settings.when_lost == WhenLost::Exact && !self.went_back() && !self.is_cut_off(now)
    }

    /// Why the store is not usable.
    pub(crate) fn problem(&self, now: Steady) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(problem.clone());
        }
        let report = self.report.as_ref().map(|(report, _)| report);
        if let Some(went_back) = report.and_then(|report| report.went_back.clone()) {
            return Some(went_back);
        }
        match self.silent_for(now) {
            None => Some("the store has not answered yet".to_owned()),
            Some(silent) if silent > SILENCE => {
                Some(format!("the store has not answered for {} s", silent.as_secs()))
            }
            Some(_) => None,
        }
    }

    /// Whether the store went back: then nothing is granted, whatever the config permits.
    pub(crate) fn went_back(&self) -> bool {
        self.report.as_ref().is_some_and(|(report, _)| report.went_back.is_some())
    }

    /// The last report.
    pub(crate) fn report(&self) -> Option<&StoreReport> {
        self.report.as_ref().map(|(report, _)| report)
    }

    /// The revision of the last change of clients.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many knocks wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The digest of the policy that the members must have in common.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    fn send(&self, message: &ToStore) {
        let is_sent = self.process.as_ref().is_some_and(|process| process.try_send(message));
        if !is_sent {
            log::warn!("fleet: the store process does not read; a grant is not shared, or not withdrawn");
        }
    }
}

impl Polled for FleetMember {
    /// Readable when the store process has sent something, or the worker has finished.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.process.as_ref().map(AsFd::as_fd));
        out.push(self.worker.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        let restart = self.restart.deadline().filter(|_| self.process.is_none() && !self.is_starting);
        let silence = self.process.as_ref().map(StoreProcess::silence_deadline);
        [self.waiting.deadline(), restart, silence].into_iter().flatten().min()
    }
}
