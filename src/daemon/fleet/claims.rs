//! The payment of a knock: before it acts, its claim must be won in the store of the fleet.

use crate::daemon::event_loop::Daemon;
use crate::fleet::ipc::OutcomeMessage;
use crate::fleet::keeper::claims::{ClaimedKnock, PendingKnock};
use crate::ipc::ReplyPath;
use crate::os::clock;
use spa_knock_core::auth::{
    Acceptance, AccessTarget, AuditCause, Authorized, ClaimNote, Effect, Explanation, OtpError, Rejection,
};

/// What the audit record states about a knock that was granted although the store did not answer.
const WITHOUT_STORE: ClaimNote = ClaimNote { result: "none", micros: None };

impl Daemon {
    /// Step 9 of a knock for which everything that it consumes is on disk: in a fleet, only after its claim is won.
    pub(in crate::daemon) fn claim(
        &mut self,
        authorized: Authorized,
        code: Option<Acceptance>,
        is_counted: bool,
        reply_path: ReplyPath,
    ) {
        let Some(member) = &mut self.fleet.member else { return self.execute(authorized, reply_path) };
        let now = clock::now();
        let client = authorized.context().client();
        let known = || self.setup.clients.iter().find(|known| known.name == *client);
        let limit = is_counted.then(known).flatten().and_then(|known| known.rules.uses);
        let uses = limit.map(|limit| (self.keeper.uses().of(client).saturating_sub(1), limit));
        self.keeper.postpone(authorized.context(), now);
        let knock = PendingKnock { authorized, code, uses, reply_path };
        if let Err((knock, why)) = member.claim(knock, now.steady) {
            member.stats.count("unknown");
            self.note_unclaimed(knock, why, None);
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
    pub(in crate::daemon) fn settle_claims(&mut self) {
        if let Some(member) = &mut self.fleet.member {
            member.run_due(clock::now());
        }
        self.resume_claimed();
    }

    fn conclude_claim(&mut self, claimed: ClaimedKnock) {
        let note = claimed.note();
        let ClaimedKnock { knock, outcome, .. } = claimed;
        let is_cut_off = self.fleet.member.as_ref().is_none_or(|member| member.is_cut_off(clock::steady()));
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
            && member.can_do_without(now.steady)
            && is_harmless(&knock)
        {
            member.stats.count("without-store");
            let client = knock.authorized.context().client();
            log::warn!(
                "client {client}: granted without the store, so other members can accept a copy: {why}"
            );
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
