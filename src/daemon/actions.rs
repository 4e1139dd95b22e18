//! Step 9: applies the effects of authorized knocks to the firewall and runs their commands; starts undo tasks when
//! they are due. Runs in the keeper.

mod jobs;
mod undo_tasks;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::running_order::{
    Execution, ExecutionResult, ExecutionStep, FinishedCommand, StepResult, WaitsFor,
};
use crate::config::setup::Setup;
use crate::control::status::CommandsState;
use crate::firewall::{ActiveGrant, FirewallError, FirewallRequest, GrantOwner, RequestResult};
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

/// How long a stopping daemon waits for running undo commands.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Carries out effects: owns the gate, the command queue and the undo queue.
pub(crate) struct Executor {
    gate: Gate,
    commands: CommandQueue<JobKind>,
    undo_queue: UndoQueue,
    /// The thread that writes undo tasks to disk.
    files: Worker<DiskOutcome>,
    next_plan: u64,
    /// Whether an undo task is being marked as started on disk. Only one at a time, so that no more start than the
    /// command queue has room for.
    undo_starting: bool,
    /// Undo commands that could not be started and are not reported yet.
    unstarted: Vec<command_queue::FinishedJob<JobKind>>,
}

/// A finished disk operation.
enum DiskOutcome {
    /// The undo tasks of an execution have been written.
    Written(u64, Vec<ScheduledUndo>, Result<(), String>),
    /// An undo task has been marked as started.
    Started(u64, Result<(), FileError>),
}

impl Executor {
    /// Takes the gate, already applied, and the undo tasks that an earlier daemon left.
    ///
    /// # Errors
    /// If the thread for disk operations cannot be started.
    pub(crate) fn new(gate: Gate, undo_queue: UndoQueue) -> io::Result<Self> {
        Ok(Self {
            gate,
            commands: CommandQueue::default(),
            undo_queue,
            files: Worker::start()?,
            next_plan: 0,
            undo_starting: false,
            unstarted: Vec::new(),
        })
    }

    /// Carries out the effects in order, until one must wait or fails, or all are done.
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
                        Ok(id) => return ExecutionStep::Waiting(WaitsFor::Disk(id)),
                        Err(remark) => return ExecutionStep::Finished(execution.end(Some(remark), false)),
                    }
                }
                Effect::Run { undo: None, .. } => match self.launch(execution, Vec::new()) {
                    Some(done) => return ExecutionStep::Finished(done),
                    None => continue,
                },
            };
            match self.gate.begin(request, setup) {
                FirewallProgress::Queued(id) => return ExecutionStep::Waiting(WaitsFor::Firewall(id)),
                FirewallProgress::Ended(outcome) => {
                    if let Some(done) = self.record_result(execution, outcome) {
                        return ExecutionStep::Finished(done);
                    }
                }
            }
        }
        ExecutionStep::Finished(execution.end(None, false))
    }

    /// Continues an execution with the result of the operation that it waited for.
    pub(crate) fn resume(
        &mut self,
        execution: &mut Execution,
        result: StepResult,
        setup: &Setup,
    ) -> ExecutionStep {
        let failed = match result {
            StepResult::Firewall(outcome) => self.record_result(execution, outcome),
            StepResult::Disk(planned, Ok(())) => self.launch(execution, planned),
            StepResult::Disk(planned, Err(remark)) => {
                self.forget_all(&planned);
                Some(execution.end(Some(remark), false))
            }
        };
        match failed {
            Some(done) => ExecutionStep::Finished(done),
            None => self.execute(execution, setup),
        }
    }

    /// Operations that have finished since the last call, each with its result.
    pub(crate) fn finished(&mut self, setup: &Setup) -> Vec<(WaitsFor, StepResult)> {
        let firewall = self.gate.ended(setup).into_iter();
        let mut finished: Vec<_> =
            firewall.map(|(id, outcome)| (WaitsFor::Firewall(id), StepResult::Firewall(outcome))).collect();
        for done in self.files.finished() {
            match done {
                DiskOutcome::Written(id, planned, outcome) => {
                    finished.push((WaitsFor::Disk(id), StepResult::Disk(planned, outcome)));
                }
                DiskOutcome::Started(number, outcome) => self.undo(number, outcome),
            }
        }
        finished
    }

    /// Drops a result whose execution has already ended. Its commands have not run, so its undo tasks are forgotten.
    pub(crate) fn drop_late(&mut self, result: StepResult) {
        if let StepResult::Disk(planned, _) = result {
            self.forget_all(&planned);
        }
    }

    /// Records the firewall's result for the current effect. Returns the final result if the effect failed.
    fn record_result(
        &mut self,
        execution: &mut Execution,
        outcome: RequestResult,
    ) -> Option<ExecutionResult> {
        match outcome {
            Ok(closed) => {
                match execution.authorized.effects().get(execution.next) {
                    Some(Effect::Open(_)) => execution.outcome = Outcome::Granted,
                    // Closing an action also undoes its commands now.
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
                Some(ExecutionResult { refused, ..execution.end(Some(error.to_string()), no_room) })
            }
        }
    }

    /// The gate and its grants.
    pub(crate) const fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// The configured state of the gate.
    pub(crate) const fn gate_state(&self) -> GateState {
        self.gate.gate_state()
    }

    /// The numbers of running and queued commands, and of undo tasks that are not due yet.
    pub(crate) fn queue_depths(&self) -> (CommandsState, usize) {
        let (running, waiting) = self.commands.counts();
        (CommandsState { running, waiting }, self.undo_queue.waiting())
    }

    /// The active grants.
    pub(crate) fn live(&self) -> Vec<ActiveGrant> {
        self.gate.live()
    }

    /// Ends everything that belongs to removed clients: revokes their grants, drops their queued commands and runs
    /// their undo tasks now. Running commands continue. Returns the revoked grants and the dropped commands.
    pub(crate) fn end_for(
        &mut self,
        is_removed: &dyn Fn(&ClientName) -> bool,
    ) -> (Revocation, Vec<FinishedCommand>) {
        let is_theirs =
            |label: &JobKind| matches!(label, JobKind::Knock(context) if is_removed(context.client()));
        let reason = Explanation::new(
            AuditCause::ClientRemoved,
            "not run: its client was removed while it was queued",
        );
        let dropped = self.commands.drop_waiting(is_theirs);
        let dropped = dropped.into_iter().filter_map(|label| label.end(&reason)).collect();
        self.undo_queue.run_now(|undone| is_removed(&undone.client));
        (self.gate.revoke(&|live| is_removed(&live.client)), dropped)
    }

    /// Readable when a disk operation has finished.
    pub(crate) fn file_descriptor(&self) -> BorrowedFd<'_> {
        self.files.descriptor()
    }

    /// Maintains the gate, collects finished commands and starts due undo tasks. Returns the commands to record in the
    /// audit log.
    pub(crate) fn run_due(&mut self, setup: &Setup) -> Vec<FinishedCommand> {
        self.gate.run_due(setup);
        let mut finished = self.commands.run_due(clock::steady());
        finished.append(&mut self.unstarted);
        let Self { commands, undo_queue, .. } = self;
        if !self.undo_starting
            && let Some(work) = undo_queue.prepare_start(|task, why| may_undo(commands, task, why))
        {
            self.undo_starting = true;
            self.files.submit(move || DiskOutcome::Started(work.number(), work.run()));
        }
        finished.into_iter().map(|done| self.conclude(done)).collect()
    }

    /// Kills running commands, but waits up to 5 s for undo commands. The next daemon runs the undo tasks that are not
    /// due yet. Returns the commands to record in the audit log.
    pub(crate) fn stop(&mut self) -> Vec<FinishedCommand> {
        if let Err(error) = self.gate.suspend() {
            log::error!("{error}; open ports stay open until the next start");
        }
        let reason = Explanation::new(AuditCause::DaemonStopped, "ended because the daemon stopped");
        // An undo task that is already marked as started still runs.
        for done in self.files.settle() {
            match done {
                DiskOutcome::Started(number, outcome) => self.undo(number, outcome),
                DiskOutcome::Written(_, planned, _) => self.forget_all(&planned),
            }
        }
        let killed = self.commands.kill(|label| matches!(label, JobKind::Knock(_)));
        let mut records: Vec<_> = killed.into_iter().filter_map(|label| label.end(&reason)).collect();
        let deadline = clock::steady().plus(STOP_MAX);
        while !self.commands.is_idle() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            let finished = self.commands.run_due(clock::steady());
            records.extend(finished.into_iter().map(|done| self.conclude(done)));
        }
        records
    }

    /// Starts the commands of the current effect. Returns the final result if one of them cannot be started.
    fn launch(&mut self, execution: &mut Execution, planned: Vec<ScheduledUndo>) -> Option<ExecutionResult> {
        let mut started = 0_usize;
        let mut failed = None;
        if let Some(Effect::Run { commands, timeout, .. }) =
            execution.authorized.effects().get(execution.next)
        {
            let context = execution.authorized.context();
            for command in commands {
                let label = JobKind::Knock(command.context(context));
                let owner = context.client().to_string();
                let job = Job { argv: command.argv().to_vec(), timeout: *timeout, owner, label };
                match self.commands.start(job, clock::steady()) {
                    Ok(()) => started = started.saturating_add(1),
                    Err(error) => failed = Some(error.to_string()),
                }
            }
        }
        for plan in planned {
            // If only some of the commands started, all are undone.
            if started > 0 { self.undo_queue.schedule(plan) } else { self.undo_queue.forget(&plan) }
        }
        execution.next = execution.next.saturating_add(1);
        if failed.is_none() {
            execution.commands = execution.commands.saturating_add(started);
        }
        failed.map(|remark| execution.end(Some(remark), false))
    }
}

impl Polled for Executor {
    /// Readable when a command prints something or ends, the firewall has changed, or a disk operation has finished.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.commands.fds(out);
        self.gate.fds(out);
        out.push(self.files.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        // While a task is being marked as started, the worker's descriptor wakes the loop.
        let undo = if self.undo_starting {
            None
        } else {
            self.undo_queue.next_due(|task, why| may_undo(&self.commands, task, why))
        };
        let undo = undo.map(|left| clock::steady().plus(left));
        [self.commands.deadline(), self.gate.deadline(), undo].into_iter().flatten().min()
    }
}
