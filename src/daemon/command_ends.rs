//! Tracks the end of commands for clients that wait for it: which knocks have running commands, and which clients have
//! asked for the result by resending the knock after its reply (docs/internals/protocol.md, section 4).

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::ipc::ReplyPath;
use crate::os::poll::Polled;
use spa_knock_core::auth::{KnockContext, KnockId, Outcome};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Steady;

/// The reply about the end of commands is sent a second time after this delay.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// The largest number of replies that wait to be repeated.
const REPEAT_MAX: usize = 256;

/// Identifies a knock: its key and its knock id.
type KnockOfKey = (Fingerprint, KnockId);

/// Knocks with unfinished commands. Bounded by the number of running and queued commands.
#[derive(Default)]
pub(super) struct CommandEnds {
    running: HashMap<KnockOfKey, RunningKnock>,
    repeats: VecDeque<RepeatedReply>,
}

struct RunningKnock {
    outcome: Outcome,
    reply_path: ReplyPath,
    /// The number of commands that have not ended.
    left: usize,
    /// How the first failed command ended.
    failed: Option<String>,
    requested: bool,
}

struct RepeatedReply {
    due: Steady,
    bytes: Vec<u8>,
    reply_path: ReplyPath,
}

/// The end of all commands of a knock.
pub(super) struct CommandEnd {
    /// The outcome in the first reply.
    pub(super) outcome: Outcome,
    /// How the first failed command ended.
    pub(super) failed: Option<String>,
    /// The client's address, if it has asked for this reply.
    pub(super) requester: Option<ReplyPath>,
}

impl CommandEnds {
    /// Starts tracking a knock with this many commands.
    pub(super) fn begin(
        &mut self,
        context: &KnockContext,
        outcome: Outcome,
        commands: usize,
        reply_path: ReplyPath,
    ) {
        if context.wants_reply() && commands > 0 {
            let running =
                RunningKnock { outcome, reply_path, left: commands, failed: None, requested: false };
            self.running.insert(context.knock(), running);
        }
    }

    /// Notes that a client has resent a knock after its reply.
    pub(super) fn request(&mut self, knock: KnockOfKey) {
        if let Some(running) = self.running.get_mut(&knock) {
            running.requested = true;
        }
    }

    /// Notes the end of one command. Returns the overall result once all commands of the knock have ended.
    pub(super) fn finish(&mut self, context: &KnockContext, failed: Option<&str>) -> Option<CommandEnd> {
        let running = self.running.get_mut(&context.knock())?;
        running.left = running.left.saturating_sub(1);
        if running.failed.is_none() {
            running.failed = failed.map(for_client);
        }
        if running.left > 0 {
            return None;
        }
        let RunningKnock { outcome, reply_path, failed, requested, .. } =
            self.running.remove(&context.knock())?;
        Some(CommandEnd { outcome, failed, requester: requested.then_some(reply_path) })
    }

    /// Schedules a second transmission of this reply.
    pub(super) fn repeat(&mut self, bytes: Vec<u8>, reply_path: ReplyPath, now: Steady) {
        if self.repeats.len() < REPEAT_MAX {
            self.repeats.push_back(RepeatedReply { due: now.plus(REPEAT_AFTER), bytes, reply_path });
        }
    }

    /// Removes and returns the first reply whose repetition is due at `now`.
    pub(super) fn take_due(&mut self, now: Steady) -> Option<(Vec<u8>, ReplyPath)> {
        let due = self.deadline().is_some_and(|due| due <= now);
        let reply = due.then(|| self.repeats.pop_front()).flatten()?;
        Some((reply.bytes, reply.reply_path))
    }
}

impl Polled for CommandEnds {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When the first repetition is due.
    fn deadline(&self) -> Option<Steady> {
        self.repeats.front().map(|reply| reply.due)
    }
}

/// The failure reason that the client is allowed to see: how the command ended, but not which command it was.
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
    fn the_client_learns_how_a_command_ended_but_not_its_path() {
        for (reason, text) in [
            ("exit status: 3", "exit status 3"),
            ("signal: 9 (SIGKILL)", "signal 9 (SIGKILL)"),
            ("timed out", "timed out"),
            ("/usr/local/bin/secret: not found", "could not be started"),
        ] {
            assert_eq!(for_client(reason), text);
        }
    }
}
