//! This server as a member of its fleet: the store process and what comes from it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::claims::{ClaimStats, ClaimedKnock, PendingKnock, WaitingClaims};
use super::mark_file;
use super::member_grants::{GrantChange, MemberGrants};
use super::policy::FleetPolicy;
use super::process::StoreProcess;
use crate::config::policy_digest::PolicyDigest;
use crate::config::setup::Setup;
use crate::config::{EtcdSettings, FleetStore, GrantScope};
use crate::console::AdminError;
use crate::fleet::files::FleetFiles;
use crate::fleet::ipc::{FromStore, OutcomeMessage, StoreReport, ToStore, from_hex};
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::process::privileges;
use crate::os::worker::Worker;
use crate::os::{clock, files};
use crate::supervisor::program::Program;
use crate::supervisor::restart::Restart;
use spa_knock_core::auth::{AuditRecord, Authorized};
use spa_knock_core::crypto::checksum;
use spa_knock_core::knock::{Now, Steady};
use spa_knock_fleet::keys::{KeySpace, StoreKey};

/// The user of the store process, if there is one of this name; else `nobody`.
const USER: &str = "spa-knock-store";
/// How many messages are read in one turn of the loop.
const BATCH: usize = 64;
/// A store that has not answered for this long counts as lost.
const SILENCE: Duration = Duration::from_secs(4);
/// How often the mark is written, if it has changed.
const MARK_EVERY: Duration = Duration::from_secs(1);

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
enum Finished {
    Started(Result<StoreProcess, String>),
    Written(Result<String, FileError>),
}

/// What a member depends on; if it changes, the member is made anew.
#[derive(PartialEq, Eq, Clone)]
struct Basis {
    settings: EtcdSettings,
    state_dir: PathBuf,
    server: String,
    window: Duration,
    /// Of certificates, logins and the fleet key.
    files: [u8; 8],
}

/// The member.
pub(crate) struct FleetMember {
    basis: Basis,
    program: Arc<Result<Program, FileError>>,
    space: KeySpace,
    process: Option<StoreProcess>,
    is_starting: bool,
    restart: Restart,
    worker: Worker<Finished>,
    waiting: WaitingClaims,
    claimed: Vec<ClaimedKnock>,
    events: VecDeque<FleetEvent>,
    policy: FleetPolicy,
    grants: MemberGrants,
    pub(crate) stats: ClaimStats,
    /// The last report, and when it arrived.
    report: Option<(StoreReport, Steady)>,
    revision: u64,
    /// Whether everything was read since the process was started: before, a revocation can be unknown.
    is_synced: bool,
    /// The mark on disk.
    mark: Option<String>,
    is_writing: bool,
    mark_due: Steady,
    address: String,
    digest: String,
    /// What was last sent for the member's record.
    described: Option<(u64, String)>,
    /// Why the process does not run, or does not start.
    problem: Option<String>,
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
        let policy = FleetPolicy::open(key.clone(), space.clone(), &basis.state_dir, &setup.config.id)
            .map_err(AdminError::run)?;
        let mark = mark_file::read(&basis.state_dir, basis.settings.cluster).map_err(AdminError::run)?;
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
        let on_disk = || mark_file::read(&self.basis.state_dir, self.basis.settings.cluster).ok();
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
        self.address = config.address.clone().unwrap_or_else(|| format!("port-{}", config.port));
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
        self.silent_for(now).is_none_or(|silent| silent > self.basis.settings.revoked_within)
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

    /// The revision up to which clients and grants are known.
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

    fn receive(&mut self, now: Now) {
        for _ in 0..BATCH {
            let Some(process) = &mut self.process else { return };
            match process.try_recv() {
                Ok(None) => break,
                Ok(Some(message)) => self.handle(message, now),
                Err(_) => return self.lose_process("has exited"),
            }
        }
        if self.process.as_mut().is_some_and(|process| process.kill_if_silent(now.steady).is_some()) {
            self.lose_process("hangs");
        }
    }

    fn handle(&mut self, message: FromStore, now: Now) {
        match message {
            FromStore::Claimed { ticket, outcome, micros } => {
                let Some(knock) = self.waiting.take(ticket) else { return };
                self.stats.count(outcome.name());
                let is_answer = !matches!(outcome, OutcomeMessage::Unknown(_));
                if is_answer {
                    self.stats.time(micros);
                }
                self.claimed.push(ClaimedKnock { knock, outcome, micros: is_answer.then_some(micros) });
            }
            FromStore::Begin => {
                self.policy.begin();
                self.grants.begin();
            }
            FromStore::Entry { key, value, lease_left } => {
                let value = value.map(|value| from_hex(&value).unwrap_or_default());
                self.apply(&key, value.as_deref(), lease_left, now);
            }
            FromStore::Complete { revision } => {
                (self.revision, self.is_synced) = (revision, true);
                self.policy.complete();
                let closed = self.grants.complete(now.steady);
                self.events.extend(closed.into_iter().map(FleetEvent::Grant));
                if self.policy.take_change() {
                    self.events.push_back(FleetEvent::ClientsChanged);
                }
            }
            FromStore::Report(report) => self.note_report(*report, now.steady),
            FromStore::Failed(reason) => {
                log::error!("fleet: store process: {reason}");
                self.problem = Some(reason);
            }
            FromStore::Version(_) | FromStore::Running { .. } => {}
        }
    }

    fn apply(&mut self, key: &str, value: Option<&[u8]>, lease_left: Option<u64>, now: Now) {
        let key = self.space.parse(format!("{}{key}", self.space.prefix()).as_bytes());
        let applied = match &key {
            Some(StoreKey::PolicyClient(client)) => {
                self.policy.apply_client(client, value).map_err(|error| error.to_string())
            }
            Some(revoked @ StoreKey::PolicyRevoked(_)) => {
                match self.policy.apply_revocation(revoked, value) {
                    Ok(fingerprint) => {
                        self.events.extend(fingerprint.map(FleetEvent::Revoked));
                        Ok(())
                    }
                    Err(error) => Err(error.to_string()),
                }
            }
            Some(StoreKey::Grant(id)) => {
                let change = self.grants.apply(*id, value, lease_left, now, self.basis.window);
                change.map(|change| self.events.extend(change.map(FleetEvent::Grant)))
            }
            _ => Ok(()),
        };
        if let Err(reason) = applied {
            log::error!("fleet: {reason}");
        }
    }

    fn note_report(&mut self, report: StoreReport, now: Steady) {
        let before = self.report.take().map(|(report, _)| report);
        let went_back = before.and_then(|before| before.went_back);
        if let Some(reason) = report.went_back.as_ref().filter(|reason| went_back.as_ref() != Some(reason)) {
            log::error!("fleet: {reason}; all knocks are refused");
        }
        self.report = Some((report, now));
    }

    fn start(&mut self) {
        let (program, basis, mark) = (Arc::clone(&self.program), self.basis.clone(), self.mark.clone());
        self.is_starting = true;
        self.described = None;
        // In the background: it resolves host names.
        self.worker.submit(move || {
            let Ok(program) = &*program else { return Finished::Started(Err("no program".to_owned())) };
            let identity = privileges::unprivileged(USER).map_err(|error| files::io_error_text(&error));
            Finished::Started(identity.and_then(|identity| {
                StoreProcess::start(program, &basis.settings, identity, basis.window, mark.as_deref())
            }))
        });
    }

    fn note_started(&mut self, started: Result<StoreProcess, String>, now: Steady) {
        self.is_starting = false;
        match started {
            Ok(process) => {
                log::info!("fleet {}: the store process runs", self.basis.settings.name);
                (self.process, self.problem) = (Some(process), None);
            }
            Err(reason) => {
                self.restart.postpone();
                if !self.restart.is_longest() || self.problem.as_ref() != Some(&reason) {
                    let delay = self.restart.delay().as_millis();
                    log::error!("fleet: store process: {reason}; starting it again in {delay} ms");
                }
                self.problem = Some(reason);
            }
        }
        self.mark_due = now.plus(MARK_EVERY);
    }

    fn lose_process(&mut self, how: &str) {
        (self.process, self.is_synced) = (None, false);
        self.restart.postpone();
        let problem = self.problem.get_or_insert_with(|| format!("the store process {how}"));
        let delay = self.restart.delay().as_millis();
        log::error!("fleet: {problem}; starting it again in {delay} ms");
        while let Some(knock) = self.waiting.take_any() {
            self.give_up(knock, "the store process has ended");
        }
    }

    fn give_up(&mut self, knock: PendingKnock, why: &str) {
        let outcome = OutcomeMessage::Unknown(why.to_owned());
        self.stats.count(outcome.name());
        self.claimed.push(ClaimedKnock { knock, outcome, micros: None });
    }

    /// Sends what the member's record contains, if it has changed.
    fn describe(&mut self) {
        let Some(process) = &self.process else { return };
        let content = (self.revision, self.digest.clone());
        if self.described.as_ref() == Some(&content) {
            return;
        }
        let message = ToStore::Describe {
            address: self.address.clone(),
            policy_revision: self.revision,
            policy_digest: self.digest.clone(),
        };
        if process.try_send(&message) {
            self.described = Some(content);
        }
    }

    fn write_mark(&mut self, now: Steady) {
        let Some((report, _)) = &self.report else { return };
        let Some(mark) = report.mark.clone().filter(|_| report.went_back.is_none()) else { return };
        if self.is_writing || now < self.mark_due || self.mark.as_ref() == Some(&mark) {
            return;
        }
        (self.is_writing, self.mark_due) = (true, now.plus(MARK_EVERY));
        let folder = self.basis.state_dir.clone();
        self.worker.submit(move || Finished::Written(mark_file::write(&folder, &mark).map(|()| mark)));
    }

    fn note_written(&mut self, written: Result<String, FileError>) {
        self.is_writing = false;
        match written {
            Ok(mark) => self.mark = Some(mark),
            Err(error) => log::error!(
                "fleet: {error}; after a restart, a store that was restored is perhaps not recognized"
            ),
        }
    }
}

impl Basis {
    fn of(setup: &Setup) -> Option<Self> {
        let config = &setup.config;
        let settings = config.fleet.as_ref().and_then(FleetStore::etcd)?.clone();
        Some(Self {
            files: FleetFiles::of(&settings).digest(),
            settings,
            state_dir: config.state_dir.clone(),
            server: config.id.to_string(),
            window: config.window,
        })
    }
}

impl FleetFiles {
    /// A digest of all files, to see whether one has changed.
    fn digest(&self) -> [u8; 8] {
        let paths = files::list(&self.0).unwrap_or_default();
        let contents: Vec<_> = paths
            .iter()
            .map(|path| zeroize::Zeroizing::new(files::read_bytes(path).unwrap_or_default()))
            .collect();
        let parts: Vec<&[u8]> = contents.iter().map(|content| content.as_slice()).collect();
        checksum(&parts)
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
