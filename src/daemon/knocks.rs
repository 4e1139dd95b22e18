//! Carries a knock through steps 4 to 11: asks the keeper to decide, records the acceptance, applies the effects, sends
//! the reply and writes the audit record.

use std::net::SocketAddr;

use super::alarms::ALARMS_MAX;
use super::command_ends::CommandEnd;
use super::event_loop::{BATCH, Daemon};
use super::running_order::{AttemptNumber, Execution, ExecutionResult, ExecutionStep, FinishedCommand};
use crate::ipc::{ReceivedKnock, ReplyPath};
use crate::os::clock;
use spa_knock_core::auth::{
    Accepted, AuditCause, Authorized, Decision, Effect, Explanation, Judgment, KnockResult, Outcome,
    PendingReply, PortSequence, Refusal, Rejection, Uncommitted,
};
use spa_knock_core::crypto::{Fingerprint, random};
use spa_knock_core::knock::Steady;

impl Daemon {
    /// Steps 4 to 11 for one knock datagram whose tag the watcher has verified.
    pub(super) fn judge(&mut self, received: &ReceivedKnock<'_>) {
        let (key, reply_path) = (received.knock.fingerprint(), received.reply_path());
        match self.keeper.judge(&received.knock, received.linked_source(), clock::now()) {
            Judgment::Record(accepted) => self.record(accepted, key, reply_path),
            Judgment::Resend(bytes) => {
                self.ends.request((key, *received.knock.envelope().nonce));
                self.tally.count(KnockResult::Resent);
                self.send(&bytes, reply_path);
            }
            Judgment::Refuse(refusal) => self.refuse(refusal, key, reply_path),
            Judgment::Throttle => self.note_throttled(key, 1),
            Judgment::Ignore => self.tally.count(KnockResult::Resent),
        }
    }

    /// Steps 5 to 11 for port hits that may form a client's port sequence.
    pub(super) fn judge_sequence(&mut self, sequence: &PortSequence) {
        let (key, reply_path) = (sequence.fingerprint(), ReplyPath::unanswered(sequence.source()));
        for result in self.keeper.judge_sequence(sequence, clock::now()) {
            match result {
                Ok(accepted) => self.record(accepted, key, reply_path),
                Err(refusal) => self.refuse(refusal, key, reply_path),
            }
        }
    }

    /// Writes the acceptance to the journal (step 7), then continues with step 8.
    pub(super) fn record(&mut self, accepted: Accepted, key: Fingerprint, reply_path: ReplyPath) {
        if let Err(why) = self.audit.check_available() {
            let why = Explanation::new(AuditCause::AuditUnavailable, why);
            let (record, reply) = self.keeper.give_up(&accepted, why, clock::now());
            self.send_reply(reply, reply_path);
            return self.audit(&record);
        }
        if cfg!(feature = "swap-act-and-record") {
            let acceptance = *accepted.acceptance();
            self.decide(accepted, key, reply_path);
            return self.state.record(&acceptance).unwrap_or_default();
        }
        if !self.state.reaches(accepted.acceptance().timestamp) {
            return self.wait_for_lease(accepted, key, reply_path);
        }
        if let Err(error) = self.state.record(accepted.acceptance()) {
            return self.refuse_unrecorded(&accepted, &error.to_string(), reply_path);
        }
        self.decide(accepted, key, reply_path);
    }

    /// Step 8 and the following steps, for a knock that is in the journal.
    fn decide(&mut self, accepted: Accepted, key: Fingerprint, reply_path: ReplyPath) {
        let now = clock::now();
        let before = self.keeper.usual_source(key);
        let decision = self.keeper.decide(accepted, now);
        if self.keeper.usual_source(key) != before {
            self.note_source(key);
        }
        // Only a one-time password, right or wrong, starts or ends a pause.
        let otp = match &decision {
            Decision::Execute(_) => false,
            Decision::Commit(uncommitted) => uncommitted.code().is_some(),
            Decision::Refuse(refusal) => matches!(refusal.rejection, Rejection::Otp(_)),
        };
        if otp {
            self.state.record_otp_pauses(self.keeper.otp_pauses(now));
        }
        match decision {
            Decision::Execute(authorized) => self.claim(authorized, None, false, reply_path),
            Decision::Commit(uncommitted) => self.commit(uncommitted, reply_path),
            Decision::Refuse(refusal) => self.refuse(refusal, key, reply_path),
        }
    }

    /// Refuses a knock that could not be recorded.
    pub(super) fn refuse_unrecorded(&mut self, accepted: &Accepted, why: &str, reply_path: ReplyPath) {
        let (record, reply) = self.keeper.give_up(accepted, not_recorded(why), clock::now());
        self.send_reply(reply, reply_path);
        self.audit(&record);
    }

    /// Records what the knock consumes before step 9: a one-time password in the journal, a use count after a flush to
    /// disk.
    fn commit(&mut self, uncommitted: Uncommitted, reply_path: ReplyPath) {
        if let Some(Err(error)) = uncommitted.code().map(|code| self.state.record(code)) {
            return self.cancel(&uncommitted, &error.to_string(), reply_path);
        }
        if uncommitted.is_counted() {
            return self.wait_for_count(uncommitted, reply_path);
        }
        self.claim_committed(uncommitted, reply_path);
    }

    /// Continues with a knock for which everything that it consumes is on disk.
    pub(super) fn claim_committed(&mut self, uncommitted: Uncommitted, reply_path: ReplyPath) {
        let (code, is_counted) = (uncommitted.code().copied(), uncommitted.is_counted());
        self.claim(uncommitted.committed(), code, is_counted, reply_path);
    }

    /// Refuses an authorized knock whose code or use count could not be recorded.
    pub(super) fn cancel(&mut self, uncommitted: &Uncommitted, why: &str, reply_path: ReplyPath) {
        let (record, reply) = self.keeper.cancel(uncommitted, not_recorded(why), clock::now());
        self.send_reply(reply, reply_path);
        self.audit(&record);
    }

    /// Step 9, first attempt. If the grant set is full, the daemon retries once.
    pub(super) fn execute(&mut self, authorized: Authorized, reply_path: ReplyPath) {
        self.carry_out(Execution::of(authorized, AttemptNumber::First), reply_path);
    }

    fn carry_out(&mut self, mut execution: Execution, reply_path: ReplyPath) {
        let step = self.executor.execute(&mut execution, &self.setup);
        self.advance(execution, step, reply_path);
    }

    /// Continues after a part of step 9: waits, retries later or concludes.
    pub(super) fn advance(&mut self, execution: Execution, step: ExecutionStep, reply_path: ReplyPath) {
        let done = match step {
            ExecutionStep::Waiting(wait) => return self.wait_to_act(wait, execution, reply_path),
            ExecutionStep::Finished(done) => done,
        };
        let is_first = execution.attempt() == AttemptNumber::First;
        let authorized = execution.into_authorized();
        if done.no_room && is_first && self.postponed.has_room() {
            if self.postponed.is_empty() {
                log::warn!("{}; retrying in 2 s", done.remark);
            }
            let now = clock::now();
            self.keeper.postpone(authorized.context(), now);
            return self.postponed.add(authorized, reply_path, now.steady);
        }
        self.conclude(&authorized, &done, reply_path);
    }

    /// Finishes step 9 for all waiting knocks, before their clients may be removed.
    pub(super) fn finish_waiting(&mut self) {
        self.settle();
        while !self.postponed.is_empty() {
            self.retry_due(Steady::MAX);
        }
        self.settle();
    }

    /// Step 9, second attempt, for knocks whose retry is due at `now`.
    pub(super) fn retry_due(&mut self, now: Steady) {
        for _ in 0..BATCH {
            let Some((authorized, reply_path)) = self.postponed.take_due(now) else { return };
            self.carry_out(Execution::of(authorized, AttemptNumber::Second), reply_path);
        }
    }

    /// Steps 10 and 11.
    pub(super) fn conclude(
        &mut self,
        authorized: &Authorized,
        done: &ExecutionResult,
        reply_path: ReplyPath,
    ) {
        if let Some(rejection) = &done.refused {
            let key = authorized.context().fingerprint();
            let refusal = self.keeper.refuse(authorized.context(), rejection.clone(), clock::now());
            return self.refuse(refusal, key, reply_path);
        }
        if done.outcome == Outcome::Granted {
            self.share_grant(authorized);
        }
        let (context, now) = (authorized.context(), clock::now());
        let (record, reply) = match done.commands {
            0 => self.keeper.conclude(context, done.outcome, &done.remark, now),
            commands => {
                self.ends.begin(context, done.outcome, commands, reply_path);
                self.keeper.conclude_started(context, done.outcome, now)
            }
        };
        self.send_reply(reply, reply_path);
        done.closed.iter().for_each(|closed| self.audit(closed));
        // A command is recorded when it ends.
        let runs = authorized.effects().iter().any(|effect| matches!(effect, Effect::Run { .. }));
        if done.outcome != Outcome::Started || !runs {
            self.audit(&record);
        }
    }

    /// Step 11 for a finished command. If it was the last of its knock and the client waits for the end, also step 10.
    pub(super) fn note_end(&mut self, finished: &FinishedCommand) {
        if let Some(context) = &finished.context
            && let Some(CommandEnd { outcome, failed, requester }) = self
                .ends
                .finish(context, finished.record.reason.as_ref().map(|reason| reason.detail.as_str()))
        {
            let now = clock::now();
            let reply = self.keeper.end(context, outcome, failed.as_deref(), now);
            // A client that has been removed in the meantime gets no reply.
            let sealed =
                reply.zip(random().ok()).and_then(|(reply, nonce)| self.keeper.seal(reply, &nonce, now).ok());
            if let (Some(bytes), Some(reply_path)) = (sealed, requester) {
                self.send(&bytes, reply_path);
                self.ends.repeat(bytes, reply_path, now.steady);
            }
        }
        self.audit(&finished.record);
    }

    /// Sends due replies about finished commands a second time, in case the first was lost.
    pub(super) fn repeat_ends(&mut self) {
        while let Some((bytes, reply_path)) = self.ends.take_due(clock::steady()) {
            self.send(&bytes, reply_path);
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal, key: Fingerprint, reply_path: ReplyPath) {
        self.tally.count(KnockResult::Refused(refusal.rejection.reason()));
        if matches!(refusal.rejection, Rejection::DecryptionFailed | Rejection::UnknownKey) {
            self.alarm(&refusal.rejection, key, reply_path.to);
        }
        if let (Rejection::Signature(_), Some(client)) = (&refusal.rejection, self.keeper.name_of(key)) {
            let count = self.signatures.entry(client.clone()).or_default();
            *count = count.saturating_add(1);
        }
        self.send_reply(refusal.reply, reply_path);
        if let Some(record) = refusal.record {
            self.audit.write(&record, clock::wall());
        }
    }

    /// Counts an alarm, which means a broken client or a compromised watcher. Too many replace the watcher.
    fn alarm(&mut self, rejection: &Rejection, key: Fingerprint, source: SocketAddr) {
        let count = self.alarms.count(clock::steady());
        if count <= ALARMS_MAX {
            log::warn!("knock with key {key} from {source}: {rejection}");
        }
        if count == ALARMS_MAX {
            log::warn!(
                "watcher: passed on {ALARMS_MAX} knocks that the keeper could not verify; replacing it"
            );
            self.supervisor.replace_untrusted();
        }
    }

    pub(super) fn send_reply(&mut self, reply: Option<PendingReply>, reply_path: ReplyPath) {
        let Some(reply) = reply else { return };
        // Without random numbers no reply can be encrypted safely, so none is sent.
        let sealed = random().ok().and_then(|nonce| self.keeper.seal(reply, &nonce, clock::now()).ok());
        match sealed {
            Some(bytes) => self.send(&bytes, reply_path),
            None => log::error!("reply to {}: could not be encrypted; not sent", reply_path.to),
        }
    }

    fn send(&self, bytes: &[u8], reply_path: ReplyPath) {
        if let Err(error) = self.supervisor.send_reply(bytes, reply_path) {
            log::debug!("reply to {}: {error}", reply_path.to);
        }
    }
}

/// The reason of a knock that is refused because it could not be recorded.
fn not_recorded(why: &str) -> Explanation {
    Explanation::new(AuditCause::StateUnavailable, why)
}
