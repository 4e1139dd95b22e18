//! The ends of commands, for clients that wait for them: which knocks have commands running, and who has asked for their
//! end by sending the knock again after its answer (docs/protocol.md, section 4).

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::ipc::ReplyPath;
use crate::os::poll::Polled;
use spa_knock_core::auth::{KnockContext, KnockId, Outcome};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Steady;

/// An answer that nobody asks for again is sent once more after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Answers that wait for that.
const AGAIN_MAX: usize = 256;

/// The knock of a key.
type KnockOfKey = (Fingerprint, KnockId);

/// Knocks whose commands run. There are no more than commands that run or wait.
#[derive(Default)]
pub(super) struct CommandEnds {
    running: HashMap<KnockOfKey, RunningKnock>,
    again: VecDeque<RepeatedReply>,
}

struct RunningKnock {
    outcome: Outcome,
    reply_path: ReplyPath,
    /// Commands that have not ended.
    left: usize,
    /// How the first one ended that failed.
    failed: Option<String>,
    asked: bool,
}

struct RepeatedReply {
    due: Steady,
    bytes: Vec<u8>,
    reply_path: ReplyPath,
}

/// All commands of a knock are over.
pub(super) struct CommandEnd {
    /// How the knock was answered.
    pub(super) outcome: Outcome,
    /// How the first command ended that failed.
    pub(super) failed: Option<String>,
    /// Where the client is, if it has asked for this.
    pub(super) requester: Option<ReplyPath>,
}

impl CommandEnds {
    /// So many commands of a knock run from now on.
    pub(super) fn begin(
        &mut self,
        context: &KnockContext,
        outcome: Outcome,
        commands: usize,
        reply_path: ReplyPath,
    ) {
        if context.wants_reply() && commands > 0 {
            let running = RunningKnock { outcome, reply_path, left: commands, failed: None, asked: false };
            self.running.insert(context.knock(), running);
        }
    }

    /// A client has sent a knock again that was answered.
    pub(super) fn ask(&mut self, knock: KnockOfKey) {
        if let Some(running) = self.running.get_mut(&knock) {
            running.asked = true;
        }
    }

    /// A command of this knock is over; what there is to say once all of them are.
    pub(super) fn over(&mut self, context: &KnockContext, failed: Option<&str>) -> Option<CommandEnd> {
        let running = self.running.get_mut(&context.knock())?;
        running.left = running.left.saturating_sub(1);
        if running.failed.is_none() {
            running.failed = failed.map(for_client);
        }
        if running.left > 0 {
            return None;
        }
        let RunningKnock { outcome, reply_path, failed, asked, .. } =
            self.running.remove(&context.knock())?;
        Some(CommandEnd { outcome, failed, requester: asked.then_some(reply_path) })
    }

    /// This is sent once more, in a while.
    pub(super) fn send_again(&mut self, bytes: Vec<u8>, reply_path: ReplyPath, now: Steady) {
        if self.again.len() < AGAIN_MAX {
            self.again.push_back(RepeatedReply { due: now.plus(AGAIN_AFTER), bytes, reply_path });
        }
    }

    /// The first answer to be sent once more, if it is due by `now`.
    pub(super) fn take_due(&mut self, now: Steady) -> Option<(Vec<u8>, ReplyPath)> {
        let due = self.deadline().is_some_and(|due| due <= now);
        let again = due.then(|| self.again.pop_front()).flatten()?;
        Some((again.bytes, again.reply_path))
    }
}

impl Polled for CommandEnds {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When one is due.
    fn deadline(&self) -> Option<Steady> {
        self.again.front().map(|again| again.due)
    }
}

/// What a client may know of a failure: how the command ended, not what it is.
fn for_client(reason: &str) -> String {
    match reason.split_once(": ") {
        Some((kind @ ("exit status" | "signal"), number)) => format!("{kind} {number}"),
        None => reason.to_owned(),
        Some(_) => "could not be started".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_how_a_command_ended_and_not_what_it_is() {
        for (reason, text) in [
            ("exit status: 3", "exit status 3"),
            ("signal: 9 (SIGKILL)", "signal 9 (SIGKILL)"),
            ("ended at its timeout", "ended at its timeout"),
            ("/usr/local/bin/secret: not found", "could not be started"),
        ] {
            assert_eq!(for_client(reason), text);
        }
    }
}
