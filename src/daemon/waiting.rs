//! Knocks that wait for a thread: for the lease that reaches them, for the use count that they need on the disk, for the
//! firewall. The loop goes on in the meantime, and resends of these knocks get nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::event_loop::Daemon;
use super::running_order::{Execution, WaitsFor};
use crate::auth::{Accepted, KnockContext, Uncommitted};
use crate::crypto::Fingerprint;
use crate::ipc::ReplyPath;
use crate::os::{clock, poll};

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
    acting: HashMap<WaitsFor, Timed<(Execution, ReplyPath)>>,
    /// Until the lease reaches them.
    accepted: VecDeque<Timed<(Accepted, Fingerprint, ReplyPath)>>,
    /// Until the next use counts are recorded.
    bills: VecDeque<Timed<(Uncommitted, ReplyPath)>>,
    /// Until those that are being recorded are on the disk.
    recording: VecDeque<Timed<(Uncommitted, ReplyPath)>>,
    is_recording: bool,
    /// Whether use counts are to be recorded for no knock: clients are gone.
    forgets: bool,
}

struct Timed<T> {
    /// When it has waited too long, on the steady clock.
    due: Duration,
    knock: T,
}

impl WaitingKnocks {
    /// Whether none waits.
    fn is_empty(&self) -> bool {
        self.acting.is_empty()
            && self.accepted.is_empty()
            && self.bills.is_empty()
            && self.recording.is_empty()
    }

    /// When the first one has waited too long.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let accepted = self.accepted.front().map(|timed| timed.due);
        let bills = [&self.bills, &self.recording].into_iter().filter_map(|bills| Some(bills.front()?.due));
        let acting = self.acting.iter().filter(|(wait, _)| wait.has_an_end()).map(|(_, timed)| timed.due);
        accepted.into_iter().chain(bills).chain(acting).min()
    }

    /// Use counts are to be recorded though no knock waits for them.
    pub(super) const fn forget(&mut self) {
        self.forgets = true;
    }
}

impl<T> Timed<T> {
    fn new(knock: T) -> Self {
        Self { due: clock::steady().saturating_add(PATIENCE), knock }
    }
}

/// The first one, if it has waited too long.
fn take_due<T>(waiting: &mut VecDeque<Timed<T>>, now: Duration) -> Option<T> {
    waiting.front().filter(|timed| timed.due <= now)?;
    waiting.pop_front().map(|timed| timed.knock)
}

impl Daemon {
    /// Until the lease reaches it.
    pub(super) fn wait_for_lease(&mut self, accepted: Accepted, key: Fingerprint, way: ReplyPath) {
        if self.waiting.accepted.len() >= MAX {
            return self.give_up(&accepted, TOO_MANY, way);
        }
        self.promise(accepted.ticket());
        self.waiting.accepted.push_back(Timed::new((accepted, key, way)));
    }

    /// Until the use count that it has raised is on the disk.
    pub(super) fn wait_for_count(&mut self, bill: Uncommitted, way: ReplyPath) {
        if self.waiting.bills.len() >= MAX {
            return self.cancel(&bill, TOO_MANY, way);
        }
        self.promise(bill.ticket());
        self.waiting.bills.push_back(Timed::new((bill, way)));
    }

    /// Until the firewall has done what the order asks of it, or the disk knows what is to be undone.
    pub(super) fn wait_to_act(&mut self, wait: WaitsFor, underway: Execution, way: ReplyPath) {
        self.promise(underway.ticket());
        self.waiting.acting.insert(wait, Timed::new((underway, way)));
    }

    /// What can go on goes on. All use counts of a turn share one flush of the disk.
    pub(super) fn go_on_with_waiting(&mut self) {
        let ended = self.state.ended();
        if let Some(written) = ended.lease {
            self.record_waiting(&written);
        }
        if let Some(recorded) = ended.uses {
            self.waiting.is_recording = false;
            for Timed { knock: (bill, way), .. } in std::mem::take(&mut self.waiting.recording) {
                match &recorded {
                    Ok(()) => self.execute(bill.committed(), way),
                    Err(error) => self.cancel(&bill, error, way),
                }
            }
        }
        let is_due = !self.waiting.bills.is_empty() || self.waiting.forgets;
        if is_due && !self.waiting.is_recording {
            (self.waiting.is_recording, self.waiting.forgets) = (true, false);
            self.waiting.recording = std::mem::take(&mut self.waiting.bills);
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
            self.deeds.gatehouse().settle();
            self.go_on_with_waiting();
            if !self.waiting.is_empty() {
                let fds = [self.deeds.file_descriptor(), self.state.descriptor()];
                let _ = poll::readable(&fds, AGAIN);
            }
        }
    }

    fn record_waiting(&mut self, written: &Result<(), String>) {
        for Timed { due, knock: (accepted, key, way) } in std::mem::take(&mut self.waiting.accepted) {
            match written {
                Err(error) => self.give_up(&accepted, error, way),
                Ok(()) if self.state.reaches(accepted.acceptance().timestamp) => {
                    self.record(accepted, key, way)
                }
                // It came while that lease was written.
                Ok(()) => self.waiting.accepted.push_back(Timed { due, knock: (accepted, key, way) }),
            }
        }
    }

    fn go_on_with_acting(&mut self) {
        loop {
            let ended = self.deeds.ended(&self.setup);
            if ended.is_empty() {
                return;
            }
            for (wait, met) in ended {
                match self.waiting.acting.remove(&wait) {
                    Some(Timed { knock: (mut underway, way), .. }) => {
                        let carried = self.deeds.go_on(&mut underway, met, &self.setup);
                        self.carried(underway, carried, way);
                    }
                    None => self.deeds.drop_late(met),
                }
            }
        }
    }

    fn end_those_too_late(&mut self, now: Duration) {
        while let Some((accepted, _, way)) = take_due(&mut self.waiting.accepted, now) {
            self.give_up(&accepted, TOO_LATE, way);
        }
        let is_late =
            |(wait, timed): (&WaitsFor, &Timed<_>)| (wait.has_an_end() && timed.due <= now).then_some(*wait);
        let late: Vec<WaitsFor> = self.waiting.acting.iter().filter_map(is_late).collect();
        for wait in late {
            if let Some(Timed { knock: (mut underway, way), .. }) = self.waiting.acting.remove(&wait) {
                let done = underway.end_late(TOO_LATE);
                self.conclude(&underway.into_order(), &done, way);
            }
        }
        // The use of one that is being recorded may be gone.
        while let Some((bill, way)) = take_due(&mut self.waiting.recording, now) {
            self.cancel(&bill, TOO_LATE, way);
        }
        while let Some((bill, way)) = take_due(&mut self.waiting.bills, now) {
            self.cancel(&bill, TOO_LATE, way);
        }
    }

    fn promise(&mut self, ticket: &KnockContext) {
        self.keeper.postpone(ticket, clock::now());
    }
}
