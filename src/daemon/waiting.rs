//! Knocks that wait for a worker thread: for a lease that covers them, for their use count to reach the disk, or for
//! the firewall. The loop continues in the meantime, and resends of these knocks get no reply.

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::event_loop::Daemon;
use super::running_order::{Execution, WaitsFor};
use crate::ipc::ReplyPath;
use crate::os::clock;
use crate::os::poll::{self, Polled};
use spa_knock_core::auth::{Accepted, KnockContext, Uncommitted};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Steady;

/// The largest number of knocks of each kind that wait for the disk; more are refused.
const MAX: usize = 1_000;
/// How long a knock waits for the disk before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The interval between checks while the daemon waits for the disk.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The recorded reasons of knocks that waited too long, or were too many.
const TOO_LATE: &str = "state directory: the disk does not respond";
const TOO_MANY: &str = "state directory: too many knocks are waiting for the disk";

/// All waiting knocks.
#[derive(Default)]
pub(super) struct WaitingKnocks {
    /// Being carried out: waiting for the firewall, or for undo tasks to reach the disk.
    acting: HashMap<WaitsFor, WithDeadline<(Execution, ReplyPath)>>,
    /// Waiting for a lease that covers them.
    accepted: VecDeque<WithDeadline<(Accepted, Fingerprint, ReplyPath)>>,
    /// Waiting for the next write of use counts.
    uncommitted: VecDeque<WithDeadline<(Uncommitted, ReplyPath)>>,
    /// Waiting for the write of use counts that is in progress.
    recording: VecDeque<WithDeadline<(Uncommitted, ReplyPath)>>,
    is_recording: bool,
    /// Whether use counts must be written although no knock waits for them, because clients were removed.
    use_count_write_due: bool,
}

struct WithDeadline<T> {
    /// When the knock has waited too long.
    due: Steady,
    knock: T,
}

impl WaitingKnocks {
    /// Whether no knock waits.
    fn is_empty(&self) -> bool {
        self.acting.is_empty()
            && self.accepted.is_empty()
            && self.uncommitted.is_empty()
            && self.recording.is_empty()
    }

    /// Requests a write of the use counts although no knock waits for them.
    pub(super) const fn request_use_count_write(&mut self) {
        self.use_count_write_due = true;
    }
}

impl Polled for WaitingKnocks {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When the first knock has waited too long.
    fn deadline(&self) -> Option<Steady> {
        let accepted = self.accepted.front().map(|timed| timed.due);
        let uncommitted = [&self.uncommitted, &self.recording]
            .into_iter()
            .filter_map(|uncommitted| Some(uncommitted.front()?.due));
        let acting = self.acting.iter().filter(|(wait, _)| wait.has_timeout()).map(|(_, timed)| timed.due);
        accepted.into_iter().chain(uncommitted).chain(acting).min()
    }
}

impl<T> WithDeadline<T> {
    fn new(knock: T) -> Self {
        Self { due: clock::steady().plus(WAIT_MAX), knock }
    }
}

/// Removes and returns the first knock if it has waited too long.
fn take_due<T>(waiting: &mut VecDeque<WithDeadline<T>>, now: Steady) -> Option<T> {
    waiting.front().filter(|timed| timed.due <= now)?;
    waiting.pop_front().map(|timed| timed.knock)
}

impl Daemon {
    /// Makes a knock wait for a lease that covers it.
    pub(super) fn wait_for_lease(&mut self, accepted: Accepted, key: Fingerprint, reply_path: ReplyPath) {
        if self.waiting.accepted.len() >= MAX {
            return self.refuse_unrecorded(&accepted, TOO_MANY, reply_path);
        }
        self.postpone(accepted.context());
        self.waiting.accepted.push_back(WithDeadline::new((accepted, key, reply_path)));
    }

    /// Makes a knock wait until its increased use count is on disk.
    pub(super) fn wait_for_count(&mut self, uncommitted: Uncommitted, reply_path: ReplyPath) {
        if self.waiting.uncommitted.len() >= MAX {
            return self.cancel(&uncommitted, TOO_MANY, reply_path);
        }
        self.postpone(uncommitted.context());
        self.waiting.uncommitted.push_back(WithDeadline::new((uncommitted, reply_path)));
    }

    /// Makes an execution wait for the firewall, or until its undo tasks are on disk.
    pub(super) fn wait_to_act(&mut self, wait: WaitsFor, execution: Execution, reply_path: ReplyPath) {
        self.postpone(execution.context());
        self.waiting.acting.insert(wait, WithDeadline::new((execution, reply_path)));
    }

    /// Continues every waiting knock that can continue. All use counts of one turn share one flush to disk.
    pub(super) fn resume_waiting(&mut self) {
        let ended = self.state.ended();
        if let Some(written) = ended.lease {
            self.record_waiting(&written);
        }
        if let Some(recorded) = ended.uses {
            self.waiting.is_recording = false;
            for WithDeadline { knock: (uncommitted, reply_path), .. } in
                std::mem::take(&mut self.waiting.recording)
            {
                match &recorded {
                    Ok(()) => self.claim_committed(uncommitted, reply_path),
                    Err(error) => self.cancel(&uncommitted, error, reply_path),
                }
            }
        }
        let is_due = !self.waiting.uncommitted.is_empty() || self.waiting.use_count_write_due;
        if is_due && !self.waiting.is_recording {
            (self.waiting.is_recording, self.waiting.use_count_write_due) = (true, false);
            self.waiting.recording = std::mem::take(&mut self.waiting.uncommitted);
            self.state.begin_uses(self.keeper.uses().clone());
        }
        self.expire_waiting(clock::steady());
        self.resume_acting();
    }

    /// Finishes all waiting knocks before the policy changes. Blocks until none is left; knocks that wait for an
    /// unresponsive disk time out as usual.
    pub(super) fn settle(&mut self) {
        while !self.waiting.is_empty() || self.fleet.has_waiting() {
            self.settle_claims();
            self.state.run_due(self.keeper.replay(), clock::now(), self.setup.config.window);
            self.executor.gate().settle();
            self.resume_waiting();
            if !self.waiting.is_empty() || self.fleet.has_waiting() {
                let mut fds = vec![self.executor.file_descriptor()];
                self.state.fds(&mut fds);
                self.fleet.fds(&mut fds);
                let _ = poll::readable(&fds, POLL_INTERVAL);
            }
        }
    }

    fn record_waiting(&mut self, written: &Result<(), String>) {
        for WithDeadline { due, knock: (accepted, key, reply_path) } in
            std::mem::take(&mut self.waiting.accepted)
        {
            match written {
                Err(error) => self.refuse_unrecorded(&accepted, error, reply_path),
                Ok(()) if self.state.reaches(accepted.acceptance().timestamp) => {
                    self.record(accepted, key, reply_path)
                }
                // It arrived while that lease was being written.
                Ok(()) => {
                    self.waiting.accepted.push_back(WithDeadline { due, knock: (accepted, key, reply_path) })
                }
            }
        }
    }

    fn resume_acting(&mut self) {
        loop {
            let finished = self.executor.finished(&self.setup);
            if finished.is_empty() {
                return;
            }
            for (wait, result) in finished {
                match self.waiting.acting.remove(&wait) {
                    Some(WithDeadline { knock: (mut execution, reply_path), .. }) => {
                        let step = self.executor.resume(&mut execution, result, &self.setup);
                        self.advance(execution, step, reply_path);
                    }
                    None => self.executor.drop_late(result),
                }
            }
        }
    }

    fn expire_waiting(&mut self, now: Steady) {
        while let Some((accepted, _, reply_path)) = take_due(&mut self.waiting.accepted, now) {
            self.refuse_unrecorded(&accepted, TOO_LATE, reply_path);
        }
        let is_late = |(wait, timed): (&WaitsFor, &WithDeadline<_>)| {
            (wait.has_timeout() && timed.due <= now).then_some(*wait)
        };
        let late: Vec<WaitsFor> = self.waiting.acting.iter().filter_map(is_late).collect();
        for wait in late {
            if let Some(WithDeadline { knock: (mut execution, reply_path), .. }) =
                self.waiting.acting.remove(&wait)
            {
                let done = execution.expire(TOO_LATE);
                self.conclude(&execution.into_authorized(), &done, reply_path);
            }
        }
        // The write in progress may still succeed: the use may be counted although the knock is refused.
        while let Some((uncommitted, reply_path)) = take_due(&mut self.waiting.recording, now) {
            self.cancel(&uncommitted, TOO_LATE, reply_path);
        }
        while let Some((uncommitted, reply_path)) = take_due(&mut self.waiting.uncommitted, now) {
            self.cancel(&uncommitted, TOO_LATE, reply_path);
        }
    }

    fn postpone(&mut self, context: &KnockContext) {
        self.keeper.postpone(context, clock::now());
    }
}
