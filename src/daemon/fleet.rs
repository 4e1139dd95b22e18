//! Several servers, one knock: before a knock acts, its claim must be won in the store of the fleet. What the store process
//! reports is carried out here.

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::event_loop::Daemon;
use super::health::HealthProblem;
use crate::config::WhenLost;
use crate::config::setup::Setup;
use crate::console::AdminError;
use crate::control::status::{FleetEndpoint, FleetMemberState, FleetState};
use crate::fleet::ipc::OutcomeMessage;
use crate::fleet::keeper::claims::{ClaimedKnock, PendingKnock};
use crate::fleet::keeper::member::{FleetEvent, FleetMember};
use crate::fleet::keeper::member_grants::GrantChange;
use crate::gate::Revocation;
use crate::ipc::ReplyPath;
use crate::os::poll::Polled;
use crate::os::{clock, host};
use crate::supervisor::program::Programs;
use spa_knock_core::auth::{
    Acceptance, AccessTarget, AuditCause, AuditEvent, AuditRecord, Authorized, ClaimNote, Effect,
    Explanation, Grant, GrantOfMember, KeyAge, KnockId, OtpError, Rejection,
};
use spa_knock_core::knock::{Now, Steady};
use spa_knock_fleet::grants::SharedGrant;

/// What the audit record says about a grant that another member has made.
const SHARED: ClaimNote = ClaimNote { result: "shared", micros: None };
/// What it says about a knock that was granted although the store did not answer.
const WITHOUT_STORE: ClaimNote = ClaimNote { result: "none", micros: None };

/// The membership in a fleet, if the config has one.
pub(crate) struct FleetService {
    program: StoreProgram,
    member: Option<Box<FleetMember>>,
}

/// The membership after a reload; none if it stays the same.
pub(crate) struct NextFleetService(Option<Option<Box<FleetMember>>>);

type StoreProgram = std::sync::Arc<Result<crate::supervisor::program::Program, crate::os::files::FileError>>;

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

    /// Whether the store answers, if there is one.
    pub(super) fn check(&self, now: Steady) -> Result<(), HealthProblem> {
        let problem = self.member.as_ref().and_then(|member| member.problem(now));
        problem.map_or(Ok(()), |_| Err(HealthProblem::FleetStore))
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
            left_out: setup.config.left_out.iter().map(ToString::to_string).collect(),
        })
    }
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
    /// Step 9 of a knock for which everything that it consumes is on disk: in a fleet, only after its claim is won.
    pub(super) fn claim(
        &mut self,
        authorized: Authorized,
        code: Option<Acceptance>,
        is_counted: bool,
        reply_path: ReplyPath,
    ) {
        let Some(member) = &mut self.fleet.member else { return self.execute(authorized, reply_path) };
        let now = clock::now();
        let client = authorized.context().client();
        let limit = self.setup.clients.iter().find(|known| known.name == *client);
        let limit = limit.filter(|_| is_counted).and_then(|known| known.rules.uses);
        let uses = limit.map(|limit| (self.keeper.uses().of(client).saturating_sub(1), limit));
        self.keeper.postpone(authorized.context(), now);
        let knock = PendingKnock { authorized, code, uses, reply_path };
        if let Err((knock, why)) = member.claim(knock, now.steady) {
            member.stats.count("unknown");
            self.note_unclaimed(knock, why, None);
        }
    }

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

    /// Continues the knocks whose claims are decided.
    pub(super) fn resume_claimed(&mut self) {
        let Some(member) = &mut self.fleet.member else { return };
        for claimed in member.take_claimed() {
            self.conclude_claim(claimed);
        }
    }

    /// Receives answers while the loop does nothing else.
    pub(super) fn settle_claims(&mut self) {
        if let Some(member) = &mut self.fleet.member {
            member.run_due(clock::now());
        }
        self.resume_claimed();
    }

    /// Publishes what a knock has opened.
    pub(super) fn share_grant(&mut self, authorized: &Authorized) {
        if let Some(member) = &mut self.fleet.member {
            member.publish(authorized, clock::now());
        }
    }

    /// Withdraws a revoked grant from the other members.
    pub(super) fn withdraw_grant(&mut self, record: &AuditRecord) {
        if record.event == AuditEvent::Revoked
            && let Some(member) = &mut self.fleet.member
        {
            member.note_revoked(record, clock::steady());
        }
    }

    fn conclude_claim(&mut self, claimed: ClaimedKnock) {
        let note = claimed.note();
        let ClaimedKnock { knock, outcome, .. } = claimed;
        let is_cut_off =
            self.fleet.member.as_ref().is_none_or(|member| member.is_cut_off(clock::steady()));
        match outcome {
            OutcomeMessage::Won if is_cut_off => {
                let why = "no revocation could be received for longer than `revoked-within`".to_owned();
                self.note_unclaimed(knock, why, Some(note));
            }
            OutcomeMessage::Won => self.execute(knock.authorized.with_claim(note), knock.reply_path),
            OutcomeMessage::Lost(member) => {
                log::debug!("client {}: member {member} acts", knock.authorized.context().client());
                self.return_use(&knock);
            }
            OutcomeMessage::BelowFloor => self.refuse_claimed(knock, note, Rejection::Replayed),
            OutcomeMessage::CodeUsed => {
                self.refuse_claimed(knock, note, Rejection::Otp(OtpError::Reused));
            }
            OutcomeMessage::UsesGone => {
                if let Some((_, limit)) = knock.uses {
                    self.keeper.set_uses(knock.authorized.context().client(), limit);
                }
                self.refuse_claimed(PendingKnock { uses: None, ..knock }, note, Rejection::UsesExhausted);
            }
            OutcomeMessage::Missing(key) => {
                let why = format!(
                    "the store has no {key}: it was wiped, or is another one; run spa-knockd fleet accept-store"
                );
                self.note_unclaimed(knock, why, Some(note));
            }
            OutcomeMessage::Unknown(why) => self.note_unclaimed(knock, why, Some(note)),
        }
    }

    /// Refuses a knock that the store has refused.
    fn refuse_claimed(&mut self, knock: PendingKnock, note: ClaimNote, rejection: Rejection) {
        self.return_use(&knock);
        let (authorized, reply_path) = (knock.authorized.with_claim(note), knock.reply_path);
        let key = authorized.context().fingerprint();
        let refusal = self.keeper.refuse(authorized.context(), rejection, clock::now());
        self.refuse(refusal, key, reply_path);
    }

    /// Refuses a knock that the store has not decided about, unless the config permits it without the store.
    fn note_unclaimed(&mut self, knock: PendingKnock, why: String, note: Option<ClaimNote>) {
        let now = clock::now();
        if let Some(member) = &mut self.fleet.member
            && member.settings().when_lost == WhenLost::Exact
            && !member.went_back()
            && !member.is_cut_off(now.steady)
            && is_harmless(&knock)
        {
            member.stats.count("without-store");
            let client = knock.authorized.context().client();
            log::warn!("client {client}: granted without the store, so other members can accept a copy: {why}");
            return self.execute(knock.authorized.with_claim(WITHOUT_STORE), knock.reply_path);
        }
        self.return_use(&knock);
        let PendingKnock { authorized, reply_path, .. } = knock;
        let authorized = match note {
            Some(note) => authorized.with_claim(note),
            None => authorized,
        };
        let why = Explanation::new(AuditCause::StoreUnavailable, why);
        let (record, reply) = self.keeper.leave_unclaimed(authorized.context(), why, now);
        self.send_reply(reply, reply_path);
        self.audit(&record);
    }

    /// A knock that does not act uses none of its client's uses.
    fn return_use(&mut self, knock: &PendingKnock) {
        if knock.uses.is_some() {
            let client = knock.authorized.context().client();
            let count = self.keeper.uses().of(client).saturating_sub(1);
            self.keeper.set_uses(client, count);
        }
    }

    /// Opens what other members have granted, with one change of the firewall if possible.
    fn open_for_members(&mut self, opened: Vec<(KnockId, SharedGrant, std::time::Duration)>) {
        if opened.is_empty() {
            return;
        }
        let own = host::own_addresses();
        let mut all: Vec<(KnockId, GrantOfMember, Vec<Grant>)> = Vec::new();
        for (id, grant, remaining) in opened {
            let Some(known) = self.setup.clients.iter().find(|client| client.name == grant.client) else {
                log::warn!("client {}: another member has granted {}, but it is unknown here", grant.client, grant.action);
                continue;
            };
            let limit = known.rules.grants;
            let SharedGrant { client, action, addresses, ports, .. } = grant;
            let grant = GrantOfMember { addresses, ports, remaining, client, action, limit };
            match grant.grants(&own) {
                Ok(grants) => all.push((id, grant, grants)),
                Err(rejection) => log::warn!("client {}: grant of another member: {rejection}", grant.client),
            }
        }
        let joined: Vec<Grant> = all.iter().flat_map(|(_, _, grants)| grants.clone()).collect();
        let outcome = self.executor.gate().grant_unconfirmed(&joined, &self.setup);
        for (id, grant, grants) in all {
            // Together they may exceed a limit that some of them do not.
            let outcome = match &outcome {
                Ok(()) => Ok(()),
                Err(_) => self.executor.gate().grant_unconfirmed(&grants, &self.setup),
            };
            let (event, reason) = match outcome {
                Ok(()) => (AuditEvent::Granted, None),
                Err(error) => {
                    (AuditEvent::Failed, Some(Explanation::new(AuditCause::ActionFailed, error.to_string())))
                }
            };
            let record = AuditRecord {
                event,
                client: grant.client,
                key: KeyAge::Current,
                action: Some(grant.action),
                addresses: grant.addresses.iter().map(spa_knock_core::knock::Prefix::first).collect(),
                source: None,
                seconds: u32::try_from(grant.remaining.as_secs()).unwrap_or(u32::MAX),
                reason,
                knock: Some(id),
                via: None,
                claim: Some(SHARED),
            };
            self.audit.write(&record, clock::wall());
        }
    }
}

/// Whether a copy of the knock opens nothing but ports for the address that its client has signed.
fn is_harmless(knock: &PendingKnock) -> bool {
    let opens_ports = |effect: &Effect| match effect {
        Effect::Open(grants) => {
            grants.iter().all(|grant| matches!(grant.access().target, AccessTarget::Ports(_)))
        }
        Effect::Close(_) | Effect::Run { .. } => false,
    };
    knock.code.is_none()
        && knock.uses.is_none()
        && knock.authorized.context().is_exact()
        && knock.authorized.effects().iter().all(opens_ports)
}
