//! Step 9: what an order says is done here, and undone in its time.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::running_order::{Execution, ExecutionStep, FinishedCommand, OrderResult, StepResult, WaitsFor};
use crate::config::setup::Setup;
use crate::control::status::CommandsState;
use crate::firewall::{ActiveGrant, FirewallError, FirewallRequest, GrantOwner, RequestResult as Closed};
use crate::gate::state::GateState;
use crate::gate::{Gate, Revocation, RevocationProgress};
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::process::command_queue::{self, CommandQueue, Exit, Job};
use crate::os::worker::Worker;
use crate::state::{Due, FileWork, Leftover, ScheduledUndo, StartedUndo, UndoQueue, UndoTask};
use spa_knock_core::auth::{
    AuditCause, AuditEvent, AuditRecord, Effect, Explanation, KnockContext, Outcome, Rejection,
    Undo as ToUndo, undo_is_of,
};
use spa_knock_core::knock::ClientName;

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

/// What a command is run for.
enum JobKind {
    Order(KnockContext),
    Undoing(StartedUndo, AuditRecord),
}

impl JobKind {
    /// What is to be recorded of a knock's command that has failed for this reason.
    fn end(self, reason: &Explanation) -> Option<FinishedCommand> {
        match self {
            Self::Order(context) => {
                let record = context.record(AuditEvent::Failed, Some(reason.clone()));
                Some(FinishedCommand { record, context: Some(context) })
            }
            Self::Undoing(..) => None,
        }
    }
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
        while let Some(effect) = execution.order.effects().get(execution.next) {
            let request = match effect {
                Effect::Open(grants) => FirewallRequest::Grant(grants.clone()),
                Effect::Close(action) => {
                    let client = execution.context().client().clone();
                    FirewallRequest::Close(GrantOwner { client, action: action.clone() })
                }
                Effect::Run { timeout, undo: Some(undo), .. } => {
                    match self.plan(undo, *timeout, execution.order.context()) {
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
                RevocationProgress::Queued(id) => return ExecutionStep::Waits(WaitsFor::Firewall(id)),
                RevocationProgress::Ended(outcome) => {
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

    fn forget_all(&mut self, planned: &[ScheduledUndo]) {
        planned.iter().for_each(|planned| self.undo_queue.forget(planned));
    }

    /// Runs what undoes something, when the disk knows that it begins.
    fn undo(&mut self, number: u64, outcome: Result<(), FileError>) {
        self.beginning = false;
        let Some((begun, task)) = self.undo_queue.begun(number, outcome) else { return };
        let UndoTask { argv, timeout, record, .. } = task;
        let owner = record.client.to_string();
        let job = Job { argv, timeout, owner, label: JobKind::Undoing(begun, record) };
        self.unstarted.extend(self.commands.start_undo(job, clock::steady()).err());
    }

    /// Notes what has come of an effect; the order's end, if it has failed.
    fn note(&mut self, execution: &mut Execution, outcome: Closed) -> Option<OrderResult> {
        match outcome {
            Ok(closed) => {
                match execution.order.effects().get(execution.next) {
                    Some(Effect::Open(_)) => execution.outcome = Outcome::Granted,
                    // What the action ran is undone now.
                    Some(Effect::Close(action)) => {
                        let client = execution.order.context().client();
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

    /// Readable when a command says something.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let files = [self.files.descriptor()];
        self.commands.descriptors().chain(self.gate.descriptor()).chain(files)
    }

    /// Readable when the disk has taken what is to be undone.
    pub(crate) fn file_descriptor(&self) -> BorrowedFd<'_> {
        self.files.descriptor()
    }

    /// In what time `tend` has something to do, if no command ends before.
    pub(crate) fn time_to_deadline(&self) -> Duration {
        let deadline = self.commands.next_deadline().map(|at| at.saturating_sub(clock::steady()));
        let first = self.gate.time_to_deadline();
        // While one begins, the thread tells when it has.
        let due = if self.beginning {
            None
        } else {
            self.undo_queue.next_due(|task, why| may_undo(&self.commands, task, why))
        };
        deadline.into_iter().chain(due).fold(first, Duration::min)
    }

    /// Lets what an earlier daemon left be undone as far as this config makes it; returns what is to be recorded of the
    /// rest.
    pub(crate) fn confirm_undoings(&mut self, setup: &Setup) -> Vec<AuditRecord> {
        let actions = &setup.config.actions;
        let refused =
            self.undo_queue.confirm(|undo| undo_is_of(actions, &undo.record, &undo.argument, &undo.argv));
        refused.into_iter().map(|(file, task)| not_of_the_config(&file, task)).collect()
    }

    /// Looks after the gate and commands, and undoes what is due; returns what is to be recorded.
    pub(crate) fn run_due(&mut self, setup: &Setup) -> Vec<FinishedCommand> {
        self.gate.run_due(setup);
        self.commands.read_output();
        let mut over = self.commands.reap(clock::steady());
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
        let deadline = clock::steady().saturating_add(STOP_MAX);
        while !self.commands.is_idle() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            self.commands.read_output();
            let over = self.commands.reap(clock::steady());
            records.extend(over.into_iter().map(|done| self.conclude(done)));
        }
        records
    }

    /// Begins to put on record what is to be undone later; gives that a name.
    fn plan(&mut self, undo: &ToUndo, timeout: Duration, context: &KnockContext) -> Result<u64, String> {
        let (mut planned, mut works) = (Vec::new(), Vec::new());
        for command in &undo.commands {
            let record = command.context(context).record(AuditEvent::Expired, None);
            let argument = undo.argument.clone();
            let task = UndoTask { argv: command.argv().to_vec(), timeout, argument, record };
            match self.undo_queue.prepare(task, undo.after) {
                Ok(plan) => plan.into_iter().for_each(|(plan, work)| {
                    planned.push(plan);
                    works.push(work);
                }),
                Err(error) => {
                    self.forget_all(&planned);
                    return Err(error.to_string());
                }
            }
        }
        let id = self.next_plan;
        self.next_plan = id.wrapping_add(1);
        self.files.ask(move || {
            let written = works.into_iter().try_for_each(FileWork::run);
            FilesDone::Planned(id, planned, written.map_err(|error| format!("undo: {error}")))
        });
        Ok(id)
    }

    /// Starts the commands of the effect that comes next; the order's end, if that fails.
    fn launch(&mut self, execution: &mut Execution, planned: Vec<ScheduledUndo>) -> Option<OrderResult> {
        let mut begun = 0_usize;
        let mut failed = None;
        if let Some(Effect::Run { commands, timeout, .. }) = execution.order.effects().get(execution.next) {
            let context = execution.order.context();
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

    /// What is to be recorded of a command that is over.
    fn conclude(&self, done: command_queue::FinishedJob<JobKind>) -> FinishedCommand {
        let bad = match done.ended {
            Exit::Success => None,
            Exit::Failure(how) => Some(Explanation::new(AuditCause::CommandFailed, how)),
            Exit::TimedOut => Some(Explanation::new(AuditCause::Timeout, "ended at its timeout")),
        };
        let (record, context) = match done.label {
            JobKind::Order(context) => {
                let event = if bad.is_none() { AuditEvent::Done } else { AuditEvent::Failed };
                (context.record(event, bad), Some(context))
            }
            JobKind::Undoing(begun, record) => {
                self.undo_queue.end(begun);
                let event = if bad.is_none() { record.event } else { AuditEvent::Failed };
                let undo = |bad: Explanation| {
                    Explanation::new(AuditCause::UndoFailed, format!("undo: {}", bad.detail))
                };
                (AuditRecord { event, reason: bad.map(undo), ..record }, None)
            }
        };
        if !done.said.is_empty() {
            let action = record.action.as_ref().map_or("", |action| action.as_str());
            log::info!("{}: {action} said: {}", record.client, done.said);
        }
        FinishedCommand { record, context }
    }
}

/// One that is hastened waits for commands of its action: undone before they end, their effect would stay. They end by
/// their timeout.
fn may_undo(commands: &CommandQueue<JobKind>, task: &UndoTask, why: Due) -> bool {
    let AuditRecord { client, action, .. } = &task.record;
    let is_before = |label: &JobKind| matches!(label, JobKind::Order(context) if context.client() == client && context.action() == action.as_ref());
    commands.may_undo(client.as_str()) && (why == Due::InTime || !commands.has(is_before))
}

/// What an earlier daemon left to be undone and the config does not make: nothing is run that only a file names.
fn not_of_the_config(file: &Path, task: UndoTask) -> AuditRecord {
    log::error!(
        "undo: {}: not run: no action of this config makes it for {}: {:?}\nhint: run it by hand if it is yours, then remove the file; or restore the action's `undo`",
        file.display(),
        task.record.client,
        task.argv
    );
    let reason = "undo: not run: no action of this config makes this command";
    let reason = Some(Explanation::new(AuditCause::UndoRefused, reason));
    AuditRecord { event: AuditEvent::Failed, reason, ..task.record }
}

/// Tells what an earlier daemon left half-done; returns what is to be recorded.
pub(crate) fn report_interrupted(left: Vec<Leftover>) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for left in left {
        match left {
            Leftover::Begun(UndoTask { argv, record, .. }) => {
                log::error!(
                    "undo: the daemon ended as this began, and it may not have run: {argv:?}\nhint: look whether it has, else run it by hand"
                );
                let reason = "undo: the daemon ended as it began; it may not have run";
                let reason = Some(Explanation::new(AuditCause::UndoUnknown, reason));
                records.push(AuditRecord { event: AuditEvent::Failed, reason, ..record });
            }
            Leftover::Damaged(path) => log::error!(
                "undo: {}: not as it was written; what it should have undone may still stand\nhint: undo it by hand, then remove the file",
                path.display()
            ),
        }
    }
    records
}
