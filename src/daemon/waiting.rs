//! Knocks that wait for a thread: for the lease that reaches them, for the use count that they need on the disk, for the
//! firewall. The loop goes on in the meantime, and resends of these knocks get nothing.

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

/// So many wait for the disk at a time, of each kind; more are refused.
const MAX: usize = 1_000;
/// How long one waits for the disk, before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at a disk that is waited for.
const AGAIN: Duration = Duration::from_millis(50);
/// What is recorded of those.
const TOO_LATE: &str = "state folder: the disk does not answer";
const TOO_MANY: &str = "state folder: too many knocks wait for the disk";

/// All that wait.
#[derive(Default)]
pub(super) struct WaitingKnocks {
    acting: HashMap<WaitsFor, WithDeadline<(Execution, ReplyPath)>>,
    /// Until the lease reaches them.
    accepted: VecDeque<WithDeadline<(Accepted, Fingerprint, ReplyPath)>>,
    /// Until the next use counts are recorded.
    uncommitted: VecDeque<WithDeadline<(Uncommitted, ReplyPath)>>,
    /// Until those that are being recorded are on the disk.
    recording: VecDeque<WithDeadline<(Uncommitted, ReplyPath)>>,
    is_recording: bool,
    /// Whether use counts are to be recorded for no knock: clients are gone.
    forgets: bool,
}

struct WithDeadline<T> {
    /// When it has waited too long.
    due: Steady,
    knock: T,
}

impl WaitingKnocks {
    /// Whether none waits.
    fn is_empty(&self) -> bool {
        self.acting.is_empty()
            && self.accepted.is_empty()
            && self.uncommitted.is_empty()
            && self.recording.is_empty()
    }

    /// Use counts are to be recorded though no knock waits for them.
    pub(super) const fn forget(&mut self) {
        self.forgets = true;
    }
}

impl Polled for WaitingKnocks {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When the first one has waited too long.
    fn deadline(&self) -> Option<Steady> {
        let accepted = self.accepted.front().map(|timed| timed.due);
        let uncommitted = [&self.uncommitted, &self.recording]
            .into_iter()
            .filter_map(|uncommitted| Some(uncommitted.front()?.due));
        let acting = self.acting.iter().filter(|(wait, _)| wait.has_an_end()).map(|(_, timed)| timed.due);
        accepted.into_iter().chain(uncommitted).chain(acting).min()
    }
}

impl<T> WithDeadline<T> {
    fn new(knock: T) -> Self {
        Self { due: clock::steady().plus(PATIENCE), knock }
    }
}

/// The first one, if it has waited too long.
fn take_due<T>(waiting: &mut VecDeque<WithDeadline<T>>, now: Steady) -> Option<T> {
    waiting.front().filter(|timed| timed.due <= now)?;
    waiting.pop_front().map(|timed| timed.knock)
}

impl Daemon {
    /// Until the lease reaches it.
    pub(super) fn wait_for_lease(&mut self, accepted: Accepted, key: Fingerprint, reply_path: ReplyPath) {
        if self.waiting.accepted.len() >= MAX {
            return self.give_up(&accepted, TOO_MANY, reply_path);
        }
        self.promise(accepted.context());
        self.waiting.accepted.push_back(WithDeadline::new((accepted, key, reply_path)));
    }

    /// Until the use count that it has raised is on the disk.
    pub(super) fn wait_for_count(&mut self, uncommitted: Uncommitted, reply_path: ReplyPath) {
        if self.waiting.uncommitted.len() >= MAX {
            return self.cancel(&uncommitted, TOO_MANY, reply_path);
        }
        self.promise(uncommitted.context());
        self.waiting.uncommitted.push_back(WithDeadline::new((uncommitted, reply_path)));
    }

    /// Until the firewall has done what the order asks of it, or the disk knows what is to be undone.
    pub(super) fn wait_to_act(&mut self, wait: WaitsFor, execution: Execution, reply_path: ReplyPath) {
        self.promise(execution.context());
        self.waiting.acting.insert(wait, WithDeadline::new((execution, reply_path)));
    }

    /// What can go on goes on. All use counts of a turn share one flush of the disk.
    pub(super) fn go_on_with_waiting(&mut self) {
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
                    Ok(()) => self.execute(uncommitted.committed(), reply_path),
                    Err(error) => self.cancel(&uncommitted, error, reply_path),
                }
            }
        }
        let is_due = !self.waiting.uncommitted.is_empty() || self.waiting.forgets;
        if is_due && !self.waiting.is_recording {
            (self.waiting.is_recording, self.waiting.forgets) = (true, false);
            self.waiting.recording = std::mem::take(&mut self.waiting.uncommitted);
            self.state.begin_uses(self.keeper.uses().clone());
        }
        self.end_those_too_late(clock::steady());
        self.go_on_with_acting();
    }

    /// Ends all that waits, as the policy is about to change. A disk that does not answer is waited for as long as its
    /// knocks are.
    pub(super) fn settle(&mut self) {
        while !self.waiting.is_empty() {
            self.state.run_due(self.keeper.replay(), clock::now(), self.setup.config.window);
            self.executor.gate().settle();
            self.go_on_with_waiting();
            if !self.waiting.is_empty() {
                let mut fds = vec![self.executor.file_descriptor()];
                self.state.fds(&mut fds);
                let _ = poll::readable(&fds, AGAIN);
            }
        }
    }

    fn record_waiting(&mut self, written: &Result<(), String>) {
        for WithDeadline { due, knock: (accepted, key, reply_path) } in
            std::mem::take(&mut self.waiting.accepted)
        {
            match written {
                Err(error) => self.give_up(&accepted, error, reply_path),
                Ok(()) if self.state.reaches(accepted.acceptance().timestamp) => {
                    self.record(accepted, key, reply_path)
                }
                // It came while that lease was written.
                Ok(()) => {
                    self.waiting.accepted.push_back(WithDeadline { due, knock: (accepted, key, reply_path) })
                }
            }
        }
    }

    fn go_on_with_acting(&mut self) {
        loop {
            let ended = self.executor.ended(&self.setup);
            if ended.is_empty() {
                return;
            }
            for (wait, met) in ended {
                match self.waiting.acting.remove(&wait) {
                    Some(WithDeadline { knock: (mut execution, reply_path), .. }) => {
                        let carried = self.executor.go_on(&mut execution, met, &self.setup);
                        self.carried(execution, carried, reply_path);
                    }
                    None => self.executor.drop_late(met),
                }
            }
        }
    }

    fn end_those_too_late(&mut self, now: Steady) {
        while let Some((accepted, _, reply_path)) = take_due(&mut self.waiting.accepted, now) {
            self.give_up(&accepted, TOO_LATE, reply_path);
        }
        let is_late = |(wait, timed): (&WaitsFor, &WithDeadline<_>)| {
            (wait.has_an_end() && timed.due <= now).then_some(*wait)
        };
        let late: Vec<WaitsFor> = self.waiting.acting.iter().filter_map(is_late).collect();
        for wait in late {
            if let Some(WithDeadline { knock: (mut execution, reply_path), .. }) =
                self.waiting.acting.remove(&wait)
            {
                let done = execution.end_late(TOO_LATE);
                self.conclude(&execution.into_authorized(), &done, reply_path);
            }
        }
        // The use of one that is being recorded may be gone.
        while let Some((uncommitted, reply_path)) = take_due(&mut self.waiting.recording, now) {
            self.cancel(&uncommitted, TOO_LATE, reply_path);
        }
        while let Some((uncommitted, reply_path)) = take_due(&mut self.waiting.uncommitted, now) {
            self.cancel(&uncommitted, TOO_LATE, reply_path);
        }
    }

    fn promise(&mut self, context: &KnockContext) {
        self.keeper.postpone(context, clock::now());
    }
}
