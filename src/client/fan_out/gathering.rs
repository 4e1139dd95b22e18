//! Gathers what happens at the servers, and decides when the result of the whole knock is certain.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::connections::Connections;
use super::grace::{FirstGrant, SecondKnock, end_of_grace};
use super::outcome::{KnockProgress, ServerOutcome, Subject, rank, with_names};
use super::request::FanOut;
use super::target::{KnockEvent, KnockStage, MemberKnock, Target, no_thread};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::KnockSuccess;
use crate::client::knock::exchange::times_sent_within;
use crate::client::report::Reporter;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// How often the status line is updated.
const TICK: Duration = Duration::from_secs(1);

/// Knocks under way, and what has happened.
pub(in crate::client) struct Gathering<'a> {
    request: &'a FanOut,
    sender: Sender<KnockEvent>,
    events: Receiver<KnockEvent>,
    connection: Option<TcpStream>,
    targets: Vec<TargetState>,
    start: Steady,
    grant: Option<FirstGrant>,
    /// Whether other servers are still of use; read by the threads.
    wanted: Arc<AtomicBool>,
}

struct TargetState {
    target: Target,
    stage: KnockStage,
    /// Whether an SSH key signs its knocks, which the user may have to confirm.
    is_signed: bool,
    replied: bool,
    outcome: Option<Result<KnockSuccess, ClientError>>,
}

impl<'a> Gathering<'a> {
    /// Begins to knock at all servers.
    pub(super) fn start(request: &'a FanOut, report: &Reporter) -> Self {
        let (sender, events) = channel();
        let mut targets = Vec::new();
        let wanted = Arc::new(AtomicBool::new(true));
        for (number, member) in request.members.iter().enumerate() {
            let started = member.request.clone().and_then(|knock| {
                let (name, report, events) = (member.name.clone(), report.clone(), sender.clone());
                let wanted = Arc::clone(&wanted);
                let knock = MemberKnock { member: number, name, request: knock, report, events, wanted };
                knock.start().map_err(|error| no_thread(&member.name, &error))
            });
            let mut state = TargetState::new(Target { member: number, address: None }, KnockStage::Resolving);
            state.outcome = started.err().map(Err);
            targets.push(state);
        }
        let start = clock::steady();
        Self { request, sender, events, connection: None, targets, start, grant: None, wanted }
    }

    /// Waits until each server has an outcome, or a server has granted and the others had enough time.
    pub(super) fn await_all(&mut self) {
        self.await_until(|gathering| gathering.targets.iter().all(|state| state.outcome.is_some()));
    }

    /// Waits for the first knock that is not refused, or until none is left.
    pub(super) fn await_first(&mut self) {
        self.await_until(|gathering| {
            gathering.successes().next().is_some()
                || gathering.targets.iter().all(|state| state.outcome.is_some())
        });
    }

    /// Connects to TCP port `port` of the servers that have granted, as they grant, and returns the first connection.
    ///
    /// # Errors
    /// If none of them accepts within `patience`.
    pub(super) fn connect(
        &mut self,
        port: u16,
        patience: Duration,
        report: &Reporter,
    ) -> Result<TcpStream, ClientError> {
        let mut connections = Connections::new(port, patience, self.sender.clone());
        let mut progress = report.progress();
        loop {
            self.successes()
                .flat_map(|knocked| &knocked.servers)
                .for_each(|server| connections.begin(*server));
            if let Some(stream) = self.connection.take() {
                return Ok(stream);
            }
            let now = clock::steady();
            if now >= connections.end() {
                drop(progress);
                return Err(connections.failure());
            }
            progress.show(|| connections.status());
            let until = connections.end().min(now.plus(TICK));
            if let Ok(event) = self.events.recv_timeout(until.since(now)) {
                self.apply(event);
            }
        }
    }

    /// The result of the whole knock, as known now.
    ///
    /// # Errors
    /// If no server granted, or a command that was waited for did not end well.
    pub(super) fn result(&self) -> Result<KnockSuccess, ClientError> {
        match self.failure_of_command().or_else(|| self.successes().next().is_none().then(|| self.failure()))
        {
            Some(failure) => Err(failure.at_servers(Some(self.outcomes()))),
            None => Ok(self.success(None)),
        }
    }

    fn await_until(&mut self, is_over: impl Fn(&Self) -> bool) {
        while !is_over(self) {
            let event = match self.deadline() {
                None => self.events.recv().ok(),
                Some(end) => self.events.recv_timeout(end.since(clock::steady())).ok(),
            };
            match event {
                Some(event) => self.apply(event),
                None if self.grant.is_none() || self.request.end => self.stop_resolving(),
                None => return,
            }
        }
    }

    /// Until when to wait for the next event; none if each thread ends by itself.
    fn deadline(&self) -> Option<Steady> {
        let undecided = || self.targets.iter().filter(|state| state.outcome.is_none());
        let is_resolving = || undecided().any(|state| state.stage == KnockStage::Resolving);
        if undecided().any(TargetState::awaits_user) {
            // The user has time to confirm each signature and each address, and a knock follows.
            return None;
        }
        match self.grant {
            // A command can run for a long time. Each server has its own time.
            Some(_) if self.request.end => is_resolving().then(|| self.start.plus(self.request.timeout)),
            Some(grant) => {
                let second = match undecided().any(|state| state.replied) {
                    true => SecondKnock::Pending,
                    false => SecondKnock::No,
                };
                let sent = undecided().filter_map(TargetState::sent).max().unwrap_or(self.start);
                Some(end_of_grace(sent, grant, second))
            }
            None => is_resolving().then(|| self.start.plus(self.request.timeout)),
        }
    }

    fn apply(&mut self, event: KnockEvent) {
        match event {
            KnockEvent::Resolved(member, stage, targets) => {
                let is_awaited =
                    |state: &TargetState| state.target.member == member && state.outcome.is_none();
                // If it was given up before, it has its outcome.
                let Some(at) = self.targets.iter().position(is_awaited) else { return };
                let states = targets.into_iter().map(|target| TargetState::new(target, stage));
                self.targets.splice(at..=at, states);
            }
            KnockEvent::Sent(target) => {
                if let Some(state) = self.state(target).filter(|state| state.sent().is_none()) {
                    state.stage = KnockStage::Sent(clock::steady());
                }
            }
            KnockEvent::Reply(target) => {
                if let Some(state) = self.state(target) {
                    state.replied = true;
                }
            }
            KnockEvent::Connected(stream) => self.connection = Some(stream),
            KnockEvent::Outcome(target, outcome) => {
                // If it was given up before, it has its outcome.
                let Some(state) = self.state(target) else { return };
                let granted = outcome.as_ref().ok().and_then(round_trip);
                state.outcome = Some(outcome);
                if let (Some(round_trip), None) = (granted, self.grant) {
                    self.grant = Some(FirstGrant { at: clock::steady(), round_trip });
                }
            }
        }
    }

    fn state(&mut self, target: Target) -> Option<&mut TargetState> {
        self.targets.iter_mut().find(|state| state.target == target)
    }

    /// The time for replies is over, and some names are still not resolved.
    fn stop_resolving(&mut self) {
        let (request, time) = (self.request, humantime::format_duration(self.request.timeout));
        for state in &mut self.targets {
            if state.stage == KnockStage::Resolving && state.outcome.is_none() {
                let name = request.members.get(state.target.member).map_or("", |member| &member.name);
                let reason = format!("{name}: the name was not resolved within {time}");
                state.outcome = Some(Err(ClientError::new(ExitCause::Network, reason)));
            }
        }
    }

    fn successes(&self) -> impl Iterator<Item = &KnockSuccess> {
        self.targets.iter().filter_map(|state| state.outcome.as_ref()?.as_ref().ok())
    }

    fn failures(&self) -> impl Iterator<Item = (Subject<'_>, &ClientError)> {
        self.targets
            .iter()
            .filter_map(|state| Some((self.subject(state), state.outcome.as_ref()?.as_ref().err()?)))
    }

    /// With `--wait-done`: the failure of a command that has started.
    fn failure_of_command(&self) -> Option<ClientError> {
        let is_about_command = |cause| matches!(cause, ExitCause::Failed | ExitCause::EndUnknown);
        let failures = self.failures().filter(|(_, failure)| is_about_command(failure.cause()));
        let (subject, failure) = failures.min_by_key(|(_, failure)| rank(failure.cause()))?;
        Some(with_names(subject, failure))
    }

    /// The failure that decides the exit code if no server has granted.
    fn failure(&self) -> ClientError {
        let deciding = self.failures().min_by_key(|(_, failure)| rank(failure.cause()));
        match deciding {
            Some((subject, failure)) => with_names(subject, failure),
            None => ClientError::new(ExitCause::NoReply, format!("{}: no reply", self.request.server)),
        }
    }

    /// The first grant, or the one of the server that has `accepted` a connection, with the outcome at each server.
    pub(super) fn success(&self, accepted: Option<SocketAddr>) -> KnockSuccess {
        let has_accepted = |knocked: &&KnockSuccess| {
            accepted.is_some_and(|accepted| knocked.servers.iter().any(|server| server.ip() == accepted.ip()))
        };
        let granted = |knocked: &&KnockSuccess| knocked.success.result != "sent";
        let deciding = self
            .successes()
            .find(has_accepted)
            .or_else(|| self.successes().find(granted))
            .or_else(|| self.successes().next());
        let outcomes = self.outcomes();
        let lines = self.targets.iter().zip(&outcomes).filter(|(state, _)| !self.is_no_news(state));
        let text = lines.map(|(_, outcome)| outcome.text()).collect::<Vec<_>>().join("\n");
        let mut success = deciding.map(|knocked| knocked.success.clone()).unwrap_or_default();
        success.servers = Some(outcomes);
        let servers = self.successes().flat_map(|knocked| knocked.servers.clone()).collect();
        KnockSuccess { servers, success, text }
    }

    /// Whether nothing could be sent to this address, but to another one of the same server: on a host without IPv6, that
    /// is always so.
    fn is_no_news(&self, state: &TargetState) -> bool {
        let member = state.target.member;
        let others = || self.targets.iter().filter(|other| other.target.member == member);
        state.is_unreachable() && others().any(|other| !other.is_unreachable())
    }

    /// The outcome at each server, in the order of the group.
    fn outcomes(&self) -> Vec<ServerOutcome> {
        let outcome = |state: &TargetState| {
            let subject = self.subject(state);
            match &state.outcome {
                Some(Ok(knocked)) => ServerOutcome::success(subject, knocked),
                Some(Err(failure)) => ServerOutcome::failure(subject, failure),
                None => ServerOutcome::undecided(subject, state.undecided()),
            }
        };
        self.targets.iter().map(outcome).collect()
    }

    fn subject<'b>(&'b self, state: &TargetState) -> Subject<'b> {
        let member = self.request.members.get(state.target.member);
        Subject {
            typed: &self.request.server,
            member: member.map_or("", |member| &member.name),
            address: state.target.address,
        }
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

impl TargetState {
    const fn new(target: Target, stage: KnockStage) -> Self {
        Self { target, stage, is_signed: matches!(stage, KnockStage::Signing), replied: false, outcome: None }
    }

    /// Whether the user may be asked to confirm a signature, or the address in a reply.
    fn awaits_user(&self) -> bool {
        self.stage == KnockStage::Signing || (self.is_signed && self.replied)
    }

    /// When its knock was sent first.
    const fn sent(&self) -> Option<Steady> {
        match self.stage {
            KnockStage::Sent(at) => Some(at),
            KnockStage::Resolving | KnockStage::Signing | KnockStage::Sending => None,
        }
    }

    fn undecided(&self) -> KnockProgress {
        match (self.replied, self.stage) {
            (true, _) => KnockProgress::Replied,
            (false, KnockStage::Resolving) => KnockProgress::Unresolved,
            (false, KnockStage::Signing) => KnockProgress::Unsigned,
            (false, KnockStage::Sending) => KnockProgress::Unsent,
            (false, KnockStage::Sent(at)) => {
                KnockProgress::Silent(times_sent_within(clock::steady().since(at)))
            }
        }
    }

    /// Whether nothing could be sent there.
    fn is_unreachable(&self) -> bool {
        let is_network = |failure: &ClientError| failure.cause() == ExitCause::Network;
        matches!(&self.outcome, Some(Err(failure)) if is_network(failure))
    }
}

/// The round trip of a grant; none without a reply.
fn round_trip(knocked: &KnockSuccess) -> Option<Duration> {
    Duration::try_from_secs_f64(knocked.success.round_trip_ms? / 1e3).ok()
}
