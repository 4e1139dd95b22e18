//! Steps 10 and 11: the reply and the audit record for each result of a knock.

use std::net::{IpAddr, Ipv4Addr};

use super::Keeper;
use super::authorized::KnockContext;
use super::verdict::{Accepted, Outcome, PendingReply, Refusal, Uncommitted};
use crate::auth::record::{AuditCause, AuditEvent, AuditRecord, Explanation};
use crate::auth::rejection::Rejection;
use crate::crypto::{DecryptionFailed, Nonce};
use crate::knock::{Now, Reply, ReplyStatus, ReplyText, ReplyWanted, Timestamp};
use crate::wire::seal_reply;

/// Whether an address belongs to a single host: a reply to a multicast or broadcast address would reach hosts that did
/// not knock.
fn is_one_host(address: IpAddr) -> bool {
    !(address.is_multicast() || address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::BROADCAST))
}

impl Keeper {
    /// Steps 10 and 11 for an executed knock: its audit record, unless the action writes its own, and its reply.
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

    /// The same for a knock whose commands have been started: the client learns that the result will follow.
    pub fn conclude_started(
        &self,
        context: &KnockContext,
        outcome: Outcome,
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        self.conclude_with(context, outcome, (None, ReplyText::STARTED), now)
    }

    /// The final reply to a knock whose first reply came from [`Keeper::conclude_started`], once all of its commands
    /// have finished. `failed` describes the failure, if any.
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
        // The details of a failure on the server are for the administrator, not for the client.
        (context.record(event, reason), self.reply(context, status, seconds, text, now.wall))
    }

    /// Encrypts a reply with a fresh random nonce and keeps it for the client's resends.
    ///
    /// # Errors
    /// If the client was removed, or the cipher fails, which never happens for so few bytes.
    pub fn seal(
        &mut self,
        reply: PendingReply,
        nonce: &Nonce,
        now: Now,
    ) -> Result<Vec<u8>, DecryptionFailed> {
        let client = self.client(reply.fingerprint).ok_or(DecryptionFailed)?;
        let bytes = seal_reply(&reply.reply, &client.keys.reply, &reply.id, nonce)?;
        // Someone with the pair secret alone must not be able to put a reply in the place of that to a signed knock.
        if reply.reply.status != ReplyStatus::SignatureRefused {
            self.replies.store((reply.fingerprint, reply.id), reply.source, now.steady, bytes.clone());
        }
        Ok(bytes)
    }

    /// The result of a knock that could not be recorded.
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

    /// The result of an authorized knock that the store of the fleet has not decided about.
    pub fn leave_unclaimed(
        &self,
        context: &KnockContext,
        why: Explanation,
        now: Now,
    ) -> (AuditRecord, Option<PendingReply>) {
        self.conclude_with(context, Outcome::Failed, (Some(why), ReplyText::UNCLAIMED), now)
    }

    /// The result of an authorized knock whose one-time password or use could not be recorded.
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

    /// Notes that the reply to a knock will follow later: until then, resends of the knock get no reply.
    pub fn postpone(&mut self, context: &KnockContext, now: Now) {
        self.replies.reserve((context.fingerprint, context.id), context.source, now.steady);
    }

    /// Refuses a knock: its audit record, unless it is already logged, and its reply. Also for an authorized knock that
    /// would exceed the grants of its client.
    pub fn refuse(&mut self, context: &KnockContext, rejection: Rejection, now: Now) -> Refusal {
        let event = rejection.reason().event();
        // A consumed knock gets here only once; knocks refused for these reasons can be resent any number of times.
        let is_repeatable =
            matches!(rejection, Rejection::Stale(_) | Rejection::Replayed | Rejection::AddressMismatch);
        let record = (!is_repeatable || self.audited.is_first((context.fingerprint, context.id), event))
            .then(|| context.record(event, Some(Explanation::from(&rejection))));
        let reply = rejection
            .status()
            .and_then(|status| self.reply(context, status, 0, &rejection.reply_text(), now.wall));
        Refusal { rejection, record, reply }
    }

    fn reply(
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
