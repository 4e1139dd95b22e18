//! What becomes of a knock: the keeper decides, and what it decides is put on record, done, answered and recorded.

use std::net::SocketAddr;

use super::alarms::ALARMS_MAX;
use super::command_ends::CommandEnd;
use super::event_loop::{BATCH, Daemon};
use super::running_order::{AttemptNumber, Execution, ExecutionStep, FinishedCommand, OrderResult};
use crate::ipc::{ReceivedKnock, ReplyPath};
use crate::os::clock;
use spa_knock_core::auth::{
    Accepted, AuditCause, Authorized, Decision, Effect, Explanation, Judgment, KnockResult, Outcome,
    PendingReply, PortSequence, Refusal, Rejection, Uncommitted,
};
use spa_knock_core::crypto::{Fingerprint, random};
use spa_knock_core::knock::Steady;

impl Daemon {
    /// Steps 4 to 11 for one signed knock.
    pub(super) fn judge(&mut self, received: &ReceivedKnock<'_>) {
        let (key, reply_path) = (received.knock.fingerprint(), received.reply_path());
        match self.keeper.judge(&received.knock, received.linked_source(), clock::now()) {
            Judgment::Record(accepted) => self.record(accepted, key, reply_path),
            Judgment::Resend(bytes) => {
                self.ends.ask((key, *received.knock.envelope().nonce));
                self.tally.count(KnockResult::Resent);
                self.send(&bytes, reply_path);
            }
            Judgment::Refuse(refusal) => self.refuse(refusal, key, reply_path),
            Judgment::Ignore => self.tally.count(KnockResult::Resent),
        }
    }

    /// Steps 5 to 11 for ports that may be a client's.
    pub(super) fn judge_sequence(&mut self, sequence: &PortSequence) {
        let (key, reply_path) = (sequence.fingerprint(), ReplyPath::unanswered(sequence.source()));
        for result in self.keeper.judge_sequence(sequence, clock::now()) {
            match result {
                Ok(accepted) => self.record(accepted, key, reply_path),
                Err(refusal) => self.refuse(refusal, key, reply_path),
            }
        }
    }

    /// Step 7 on disk, then step 8.
    pub(super) fn record(&mut self, accepted: Accepted, key: Fingerprint, reply_path: ReplyPath) {
        if let Err(why) = self.audit.check_available() {
            let why = Explanation::new(AuditCause::AuditUnavailable, why);
            let (record, answer) = self.keeper.give_up(&accepted, why, clock::now());
            self.answer(answer, reply_path);
            return self.audit(&record);
        }
        if cfg!(feature = "swap-act-and-record") {
            let acceptance = *accepted.acceptance();
            self.go_on(accepted, key, reply_path);
            return self.state.record(&acceptance).unwrap_or_default();
        }
        if !self.state.reaches(accepted.acceptance().timestamp) {
            return self.wait_for_lease(accepted, key, reply_path);
        }
        if let Err(error) = self.state.record(accepted.acceptance()) {
            return self.give_up(&accepted, &error.to_string(), reply_path);
        }
        self.go_on(accepted, key, reply_path);
    }

    /// Step 8 and what follows, for a knock that is on record.
    fn go_on(&mut self, accepted: Accepted, key: Fingerprint, reply_path: ReplyPath) {
        let now = clock::now();
        let decision = self.keeper.decide(accepted, now);
        // Only a one-time password, right or wrong, begins or ends a pause.
        let otp = match &decision {
            Decision::Execute(_) => false,
            Decision::Commit(uncommitted) => uncommitted.code().is_some(),
            Decision::Refuse(refusal) => matches!(refusal.rejection, Rejection::Otp(_)),
        };
        if otp {
            self.state.record_otp_pauses(self.keeper.otp_pauses(now));
        }
        match decision {
            Decision::Execute(authorized) => self.execute(authorized, reply_path),
            Decision::Commit(uncommitted) => self.commit(uncommitted, reply_path),
            Decision::Refuse(refusal) => self.refuse(refusal, key, reply_path),
        }
    }

    /// The end of a knock that could not be put on record.
    pub(super) fn give_up(&mut self, accepted: &Accepted, why: &str, reply_path: ReplyPath) {
        let (record, answer) = self.keeper.give_up(accepted, not_recorded(why), clock::now());
        self.answer(answer, reply_path);
        self.audit(&record);
    }

    /// What an order uses up is on record before step 9: a code right away, and one of so many uses on the disk.
    fn commit(&mut self, uncommitted: Uncommitted, reply_path: ReplyPath) {
        if let Some(Err(error)) = uncommitted.code().map(|code| self.state.record(code)) {
            return self.cancel(&uncommitted, &error.to_string(), reply_path);
        }
        if uncommitted.is_counted() {
            return self.wait_for_count(uncommitted, reply_path);
        }
        self.execute(uncommitted.committed(), reply_path);
    }

    /// The end of an order whose price could not be put on record.
    pub(super) fn cancel(&mut self, uncommitted: &Uncommitted, why: &str, reply_path: ReplyPath) {
        let (record, answer) = self.keeper.cancel(uncommitted, not_recorded(why), clock::now());
        self.answer(answer, reply_path);
        self.audit(&record);
    }

    /// Step 9 for the first time: what finds no room is tried once more.
    pub(super) fn execute(&mut self, authorized: Authorized, reply_path: ReplyPath) {
        self.carry_out(Execution::of(authorized, AttemptNumber::First), reply_path);
    }

    fn carry_out(&mut self, mut execution: Execution, reply_path: ReplyPath) {
        let carried = self.executor.execute(&mut execution, &self.setup);
        self.carried(execution, carried, reply_path);
    }

    /// What comes after step 9, or after as much of it as has been done.
    pub(super) fn carried(&mut self, execution: Execution, carried: ExecutionStep, reply_path: ReplyPath) {
        let done = match carried {
            ExecutionStep::Waits(wait) => return self.wait_to_act(wait, execution, reply_path),
            ExecutionStep::Over(done) => done,
        };
        let is_first = execution.attempt() == AttemptNumber::First;
        let authorized = execution.into_authorized();
        if done.no_room && is_first && self.postponed.has_room() {
            if self.postponed.is_empty() {
                log::warn!("{}: trying again in two seconds", done.remark);
            }
            let now = clock::now();
            self.keeper.postpone(authorized.context(), now);
            return self.postponed.add(authorized, reply_path, now.steady);
        }
        self.conclude(&authorized, &done, reply_path);
    }

    /// Step 9 for all that still waits: who knocked may not be known any more in a moment.
    pub(super) fn act_at_last(&mut self) {
        self.settle();
        while !self.postponed.is_empty() {
            self.act_again(Steady::MAX);
        }
        self.settle();
    }

    /// Step 9 for what has waited until `now`.
    pub(super) fn act_again(&mut self, now: Steady) {
        for _ in 0..BATCH {
            let Some((authorized, reply_path)) = self.postponed.take_due(now) else { return };
            self.carry_out(Execution::of(authorized, AttemptNumber::Second), reply_path);
        }
    }

    /// Steps 10 and 11.
    pub(super) fn conclude(&mut self, authorized: &Authorized, done: &OrderResult, reply_path: ReplyPath) {
        if let Some(rejection) = &done.refused {
            let key = authorized.context().fingerprint();
            let refusal = self.keeper.refuse(authorized.context(), rejection.clone(), clock::now());
            return self.refuse(refusal, key, reply_path);
        }
        let (context, now) = (authorized.context(), clock::now());
        let (record, answer) = match done.commands {
            0 => self.keeper.conclude(context, done.outcome, &done.remark, now),
            commands => {
                self.ends.begin(context, done.outcome, commands, reply_path);
                self.keeper.conclude_started(context, done.outcome, now)
            }
        };
        self.answer(answer, reply_path);
        done.closed.iter().for_each(|closed| self.audit(closed));
        // A command's own end is what is recorded of it.
        let runs = authorized.effects().iter().any(|effect| matches!(effect, Effect::Run { .. }));
        if done.outcome != Outcome::Started || !runs {
            self.audit(&record);
        }
    }

    /// Step 11 for a command that is over; once all of its knock are, also step 10 for a client that waits for that.
    pub(super) fn note_end(&mut self, over: &FinishedCommand) {
        if let Some(context) = &over.context
            && let Some(CommandEnd { outcome, failed, requester }) =
                self.ends.over(context, over.record.reason.as_ref().map(|reason| reason.detail.as_str()))
        {
            let now = clock::now();
            let answer = self.keeper.end(context, outcome, failed.as_deref(), now);
            // A client that is gone by now is told nothing.
            let sealed = answer
                .zip(random().ok())
                .and_then(|(answer, nonce)| self.keeper.seal(answer, &nonce, now).ok());
            if let (Some(bytes), Some(reply_path)) = (sealed, requester) {
                self.send(&bytes, reply_path);
                self.ends.send_again(bytes, reply_path, now.steady);
            }
        }
        self.audit(&over.record);
    }

    /// What was sent by itself may have been lost.
    pub(super) fn send_ends_again(&mut self) {
        while let Some((bytes, reply_path)) = self.ends.take_due(clock::steady()) {
            self.send(&bytes, reply_path);
        }
    }

    fn refuse(&mut self, refusal: Refusal, key: Fingerprint, reply_path: ReplyPath) {
        self.tally.count(KnockResult::Refused(refusal.rejection.reason()));
        if matches!(refusal.rejection, Rejection::DecryptionFailed | Rejection::UnknownKey) {
            self.alarm(&refusal.rejection, key, reply_path.to);
        }
        self.answer(refusal.reply, reply_path);
        if let Some(record) = refusal.record {
            self.audit.write(&record, clock::wall());
        }
    }

    /// A broken client, or a watcher that somebody has taken over.
    fn alarm(&mut self, rejection: &Rejection, key: Fingerprint, source: SocketAddr) {
        let count = self.alarms.count(clock::steady());
        if count <= ALARMS_MAX {
            log::warn!("knock of key {key} from {source}: {rejection}");
        }
        if count == ALARMS_MAX {
            log::warn!("too many of those: taking another watcher");
            self.supervisor.replace_untrusted();
        }
    }

    fn answer(&mut self, answer: Option<PendingReply>, reply_path: ReplyPath) {
        let Some(answer) = answer else { return };
        // Without random numbers there is no safe answer, and the client is told nothing.
        let sealed = random().ok().and_then(|nonce| self.keeper.seal(answer, &nonce, clock::now()).ok());
        match sealed {
            Some(bytes) => self.send(&bytes, reply_path),
            None => log::error!("an answer could not be sealed"),
        }
    }

    fn send(&self, bytes: &[u8], reply_path: ReplyPath) {
        if let Err(error) = self.supervisor.answer(bytes, reply_path) {
            log::debug!("answer to {}: {error}", reply_path.to);
        }
    }
}

/// What could not be put on record does not act.
fn not_recorded(why: &str) -> Explanation {
    Explanation::new(AuditCause::StateUnavailable, why)
}
