//! Steps 10 and 11: what each end of a knock is answered, and what is recorded of it.

use std::net::{IpAddr, Ipv4Addr};

use super::Keeper;
use super::authorized::KnockContext;
use super::verdict::{Accepted, Outcome, PendingReply, Refusal, Uncommitted};
use crate::auth::record::{AuditCause, AuditEvent, AuditRecord, Explanation};
use crate::auth::rejection::Rejection;
use crate::crypto::{DecryptionFailed, Nonce};
use crate::knock::{Now, Reply, ReplyStatus, ReplyText, ReplyWanted, Timestamp};
use crate::wire::seal_reply;

/// Whether an address is that of one host: a reply to a group or to all would be a message to hosts that did not knock.
fn is_one_host(address: IpAddr) -> bool {
    !(address.is_multicast() || address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::BROADCAST))
}

impl Keeper {
    /// Steps 10 and 11 for an order: what to answer, and what to record unless the action records its own end.
    pub fn conclude(
        &self,
        context: &KnockContext,
        outcome: Outcome,
        remark: &str,
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        let reason = (!remark.is_empty()).then(|| Explanation::new(AuditCause::ActionFailed, remark));
        self.conclude_with(context, outcome, (reason, ""), now)
    }

    /// The same for an order whose commands have been started: the client is told that there is more to come.
    pub fn conclude_started(
        &self,
        context: &KnockContext,
        outcome: Outcome,
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        self.conclude_with(context, outcome, (None, ReplyText::STARTED), now)
    }

    /// What to answer from now on, once all commands of an order that was answered so have ended: well, or `failed`.
    pub fn end(
        &self,
        context: &KnockContext,
        outcome: Outcome,
        failed: Option<&str>,
        now: Now,
    ) -> Option<PendingReply> {
        let (outcome, text) = failed.map_or((outcome, ReplyText::DONE), |failed| (Outcome::Failed, failed));
        self.conclude_with(context, outcome, (None, text), now).1
    }

    fn conclude_with(
        &self,
        context: &KnockContext,
        outcome: Outcome,
        (reason, text): (Option<Explanation>, &str),
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        let (event, status) = match outcome {
            Outcome::Granted => (AuditEvent::Granted, ReplyStatus::Granted),
            Outcome::Started => (AuditEvent::Done, ReplyStatus::Done),
            Outcome::Failed => (AuditEvent::Failed, ReplyStatus::ActionFailed),
        };
        let seconds = if outcome == Outcome::Failed { 0 } else { context.seconds };
        // What went wrong on the server is for its admin to read, not for the client.
        (context.record(event, reason), self.answer(context, status, seconds, text, now.wall))
    }

    /// Seals an answer under a fresh random nonce and keeps it for the client's resends.
    ///
    /// # Errors
    /// When the client is gone, or the cipher fails, which it never does for so few bytes.
    pub fn seal(
        &mut self,
        answer: PendingReply,
        nonce: &Nonce,
        now: Now,
    ) -> Result<Vec<u8>, DecryptionFailed> {
        let client = self.client(answer.fingerprint).ok_or(DecryptionFailed)?;
        let bytes = seal_reply(&answer.reply, &client.keys.reply, &answer.id, nonce)?;
        self.answers.store((answer.fingerprint, answer.id), answer.source, now.steady, bytes.clone());
        Ok(bytes)
    }

    /// The end of a knock that could not be put on record.
    pub fn give_up(
        &self,
        accepted: &Accepted,
        why: Explanation,
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        let action = accepted.fresh.understand().ok().map(|knock| knock.action.clone());
        let context = KnockContext { action, ..accepted.context.clone() };
        self.conclude_with(&context, Outcome::Failed, (Some(why), ReplyText::UNRECORDED), now)
    }

    /// The end of an order whose price could not be put on record.
    pub fn cancel(
        &self,
        uncommitted: &Uncommitted,
        why: Explanation,
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        self.conclude_with(
            uncommitted.authorized.context(),
            Outcome::Failed,
            (Some(why), ReplyText::UNRECORDED),
            now,
        )
    }

    /// Notes that an order takes a while: copies of its knock get nothing meanwhile.
    pub fn postpone(&mut self, context: &KnockContext, now: Now) {
        self.answers.reserve((context.fingerprint, context.id), context.source, now.steady);
    }

    /// The end of an order that the firewall has no room for because of what its client holds already.
    pub fn refuse(&mut self, context: &KnockContext, rejection: Rejection, now: Now) -> Refusal {
        let event = rejection.reason().event();
        // What is used up by now comes here once; the others can be sent again and again.
        let once =
            matches!(rejection, Rejection::Stale(_) | Rejection::Replayed | Rejection::AddressMismatch);
        let record = (!once || self.told.is_first((context.fingerprint, context.id), event))
            .then(|| context.record(event, Some(Explanation::from(&rejection))));
        let answer = rejection
            .status()
            .and_then(|status| self.answer(context, status, 0, &rejection.reply_text(), now.wall));
        Refusal { rejection, record, reply: answer }
    }

    fn answer(
        &self,
        context: &KnockContext,
        status: ReplyStatus,
        seconds: u32,
        text: &str,
        now: Timestamp,
    ) -> Option<PendingReply> {
        if context.reply == ReplyWanted::No || !self.policy.reply || !is_one_host(context.source.ip()) {
            return None;
        }
        let reply = Reply {
            status,
            server_time: now,
            observed: context.source.ip(),
            port: context.source.port(),
            seconds,
            text: ReplyText::fitting(text),
        };
        Some(PendingReply { fingerprint: context.fingerprint, id: context.id, source: context.source, reply })
    }
}
