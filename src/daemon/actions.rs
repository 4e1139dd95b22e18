//! Step 9: what an order says is done here, and undone in its time.

mod jobs;
mod undo_tasks;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::running_order::{Execution, ExecutionStep, FinishedCommand, OrderResult, StepResult, WaitsFor};
use crate::config::setup::Setup;
use crate::control::status::CommandsState;
use crate::firewall::{ActiveGrant, FirewallError, FirewallRequest, GrantOwner, RequestResult as Closed};
use crate::gate::state::GateState;
use crate::gate::{FirewallProgress, Gate, Revocation};
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::process::command_queue::{self, CommandQueue, Job};
use crate::os::worker::Worker;
use crate::state::{ScheduledUndo, UndoQueue};
use jobs::JobKind;
use spa_knock_core::auth::{AuditCause, Effect, Explanation, Outcome, Rejection};
use spa_knock_core::knock::{ClientName, Steady};
use undo_tasks::may_undo;
pub(crate) use undo_tasks::report_interrupted;

/// How long a daemon that stops waits for what undoes something.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The means to act.
pub(crate) struct Executor {
    gate: Gate,
    commands: CommandQueue<JobKind>,
    undo_queue: UndoQueue,
    /// Waits for the disk.
    files: Worker<FilesDone>,
    next_plan: u64,
    /// Whether one is about to be undone: one at a time, so that no more are than may run.
    beginning: bool,
    /// What could not be started and is not reported yet.
    unstarted: Vec<command_queue::FinishedJob<JobKind>>,
}

/// Work on the disk that has ended.
enum FilesDone {
    Planned(u64, Vec<ScheduledUndo>, Result<(), String>),
    Begun(u64, Result<(), FileError>),
}

impl Executor {
    /// With the gate closed and what an earlier daemon left to be undone.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(crate) fn new(gate: Gate, undo_queue: UndoQueue) -> io::Result<Self> {
        Ok(Self {
            gate,
            commands: CommandQueue::default(),
            undo_queue,
            files: Worker::start()?,
            next_plan: 0,
            beginning: false,
            unstarted: Vec::new(),
        })
    }

    /// Does what the order says, one thing after the other, as far as it can be done now.
    pub(crate) fn execute(&mut self, execution: &mut Execution, setup: &Setup) -> ExecutionStep {
        while let Some(effect) = execution.authorized.effects().get(execution.next) {
            let request = match effect {
                Effect::Open(grants) => FirewallRequest::Grant(grants.clone()),
                Effect::Close(action) => {
                    let client = execution.context().client().clone();
                    FirewallRequest::Close(GrantOwner { client, action: action.clone() })
                }
                Effect::Run { timeout, undo: Some(undo), .. } => {
                    match self.plan(undo, *timeout, execution.authorized.context()) {
                        Ok(id) => return ExecutionStep::Waits(WaitsFor::Disk(id)),
                        Err(remark) => return ExecutionStep::Over(execution.end(Some(remark), false)),
                    }
                }
                Effect::Run { undo: None, .. } => match self.launch(execution, Vec::new()) {
                    Some(done) => return ExecutionStep::Over(done),
                    None => continue,
                },
            };
            match self.gate.begin(request, setup) {
                FirewallProgress::Queued(id) => return ExecutionStep::Waits(WaitsFor::Firewall(id)),
                FirewallProgress::Ended(outcome) => {
                    if let Some(done) = self.note(execution, outcome) {
                        return ExecutionStep::Over(done);
                    }
                }
            }
        }
        ExecutionStep::Over(execution.end(None, false))
    }

    /// Goes on with an order when what it has waited for has ended.
    pub(crate) fn go_on(
        &mut self,
        execution: &mut Execution,
        met: StepResult,
        setup: &Setup,
    ) -> ExecutionStep {
        let failed = match met {
            StepResult::Firewall(outcome) => self.note(execution, outcome),
            StepResult::Disk(planned, Ok(())) => self.launch(execution, planned),
            StepResult::Disk(planned, Err(remark)) => {
                self.forget_all(&planned);
                Some(execution.end(Some(remark), false))
            }
        };
        match failed {
            Some(done) => ExecutionStep::Over(done),
            None => self.execute(execution, setup),
        }
    }

    /// What orders waited for and has ended.
    pub(crate) fn ended(&mut self, setup: &Setup) -> Vec<(WaitsFor, StepResult)> {
        let firewall = self.gate.ended(setup).into_iter();
        let mut ended: Vec<_> =
            firewall.map(|(id, outcome)| (WaitsFor::Firewall(id), StepResult::Firewall(outcome))).collect();
        for done in self.files.finished() {
            match done {
                FilesDone::Planned(id, planned, outcome) => {
                    ended.push((WaitsFor::Disk(id), StepResult::Disk(planned, outcome)));
                }
                FilesDone::Begun(number, outcome) => self.undo(number, outcome),
            }
        }
        ended
    }

    /// What came too late: its order has ended, and nothing was done that must be undone.
    pub(crate) fn drop_late(&mut self, met: StepResult) {
        if let StepResult::Disk(planned, _) = met {
            self.forget_all(&planned);
        }
    }

    /// Notes what has come of an effect; the order's end, if it has failed.
    fn note(&mut self, execution: &mut Execution, outcome: Closed) -> Option<OrderResult> {
        match outcome {
            Ok(closed) => {
                match execution.authorized.effects().get(execution.next) {
                    Some(Effect::Open(_)) => execution.outcome = Outcome::Granted,
                    // What the action ran is undone now.
                    Some(Effect::Close(action)) => {
                        let client = execution.authorized.context().client();
                        self.undo_queue.run_now(|undone| {
                            undone.client == *client && undone.action.as_ref() == Some(action)
                        });
                    }
                    Some(Effect::Run { .. }) | None => {}
                }
                execution.closed.extend(closed.into_iter().map(ActiveGrant::record));
                execution.next = execution.next.saturating_add(1);
                None
            }
            Err(error) => {
                let no_room = execution.next == 0 && error == FirewallError::Full;
                let refused = match error {
                    FirewallError::TooMany(limit) => Some(Rejection::GrantsExceeded(limit)),
                    _ => None,
                };
                Some(OrderResult { refused, ..execution.end(Some(error.to_string()), no_room) })
            }
        }
    }

    /// The gate and its grants.
    pub(crate) const fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// What is to become of the gate.
    pub(crate) const fn gate_state(&self) -> GateState {
        self.gate.gate_state()
    }

    /// How many commands run and wait for their turn, and how many wait for their time to undo something.
    pub(crate) fn queue_depths(&self) -> (CommandsState, usize) {
        let (running, waiting) = self.commands.counts();
        (CommandsState { running, waiting }, self.undo_queue.waiting())
    }

    /// The live grants.
    pub(crate) fn live(&self) -> Vec<ActiveGrant> {
        self.gate.live()
    }

    /// Ends all that goes on for clients that are not there any more: what is open for them is closed, commands that wait
    /// for their turn do not run, what is to be undone is undone now. A command that runs goes on. Returns the grants and
    /// the commands that have ended so.
    pub(crate) fn end_for(
        &mut self,
        is_gone: &dyn Fn(&ClientName) -> bool,
    ) -> (Revocation, Vec<FinishedCommand>) {
        let is_theirs =
            |label: &JobKind| matches!(label, JobKind::Order(context) if is_gone(context.client()));
        let reason =
            Explanation::new(AuditCause::ClientRemoved, "not run: its client was removed before its turn");
        let dropped = self.commands.drop_waiting(is_theirs);
        let dropped = dropped.into_iter().filter_map(|label| label.end(&reason)).collect();
        self.undo_queue.run_now(|undone| is_gone(&undone.client));
        (self.gate.revoke(&|live| is_gone(&live.client)), dropped)
    }

    /// Readable when the disk has taken what is to be undone.
    pub(crate) fn file_descriptor(&self) -> BorrowedFd<'_> {
        self.files.descriptor()
    }

    /// Looks after the gate and commands, and undoes what is due; returns what is to be recorded.
    pub(crate) fn run_due(&mut self, setup: &Setup) -> Vec<FinishedCommand> {
        self.gate.run_due(setup);
        let mut over = self.commands.run_due(clock::steady());
        over.append(&mut self.unstarted);
        let Self { commands, undo_queue, .. } = self;
        if !self.beginning
            && let Some(work) = undo_queue.prepare_to_begin(|task, why| may_undo(commands, task, why))
        {
            self.beginning = true;
            self.files.ask(move || FilesDone::Begun(work.number(), work.run()));
        }
        over.into_iter().map(|done| self.conclude(done)).collect()
    }

    /// Ends the commands that run, but waits a while for those that undo something. What is to be undone later waits
    /// for the next daemon. Returns what is to be recorded.
    pub(crate) fn stop(&mut self) -> Vec<FinishedCommand> {
        if let Err(error) = self.gate.suspend() {
            log::error!("{error}; what is open stays open until the next start");
        }
        let reason = Explanation::new(AuditCause::DaemonStopped, "ended as the daemon stopped");
        // What is about to be undone is undone yet.
        for done in self.files.settle() {
            match done {
                FilesDone::Begun(number, outcome) => self.undo(number, outcome),
                FilesDone::Planned(_, planned, _) => self.forget_all(&planned),
            }
        }
        let killed = self.commands.kill(|label| matches!(label, JobKind::Order(_)));
        let mut records: Vec<_> = killed.into_iter().filter_map(|label| label.end(&reason)).collect();
        let deadline = clock::steady().plus(STOP_MAX);
        while !self.commands.is_idle() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            let over = self.commands.run_due(clock::steady());
            records.extend(over.into_iter().map(|done| self.conclude(done)));
        }
        records
    }

    /// Starts the commands of the effect that comes next; the order's end, if that fails.
    fn launch(&mut self, execution: &mut Execution, planned: Vec<ScheduledUndo>) -> Option<OrderResult> {
        let mut begun = 0_usize;
        let mut failed = None;
        if let Some(Effect::Run { commands, timeout, .. }) =
            execution.authorized.effects().get(execution.next)
        {
            let context = execution.authorized.context();
            for command in commands {
                let label = JobKind::Order(command.context(context));
                let owner = context.client().to_string();
                let job = Job { argv: command.argv().to_vec(), timeout: *timeout, owner, label };
                match self.commands.start(job, clock::steady()) {
                    Ok(()) => begun = begun.saturating_add(1),
                    Err(error) => failed = Some(error.to_string()),
                }
            }
        }
        for plan in planned {
            // What has been done in part is undone as a whole.
            if begun > 0 { self.undo_queue.schedule(plan) } else { self.undo_queue.forget(&plan) }
        }
        execution.next = execution.next.saturating_add(1);
        if failed.is_none() {
            execution.commands = execution.commands.saturating_add(begun);
        }
        failed.map(|remark| execution.end(Some(remark), false))
    }
}

impl Polled for Executor {
    /// Readable when a command says something, the firewall has changed, or the disk has done its work.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.commands.fds(out);
        self.gate.fds(out);
        out.push(self.files.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        // While one begins, the thread tells when it has.
        let undo = if self.beginning {
            None
        } else {
            self.undo_queue.next_due(|task, why| may_undo(&self.commands, task, why))
        };
        let undo = undo.map(|left| clock::steady().plus(left));
        [self.commands.deadline(), self.gate.deadline(), undo].into_iter().flatten().min()
    }
}
