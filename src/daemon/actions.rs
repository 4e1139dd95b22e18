//! Step 9 of the ladder: what an order says is done here, and undone in its time.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::running_order::{Execution, ExecutionStep, OrderResult, Over, StepResult, WaitsFor};
use crate::auth::{
    AuditCause, AuditEvent, AuditRecord, Effect, Explanation, KnockContext, Outcome, Rejection,
    Undo as ToUndo, undo_is_of,
};
use crate::config::setup::Setup;
use crate::control::status::CommandsState;
use crate::firewall::{ActiveGrant, FirewallError, FirewallRequest, GrantOwner, RequestResult as Closed};
use crate::gate::state::GateState;
use crate::gate::{Gate, RevocationProgress, Revoked};
use crate::knock::ClientName;
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::process::command_queue::{self, CommandQueue, Exit, Job};
use crate::os::worker::Worker;
use crate::state::{Due, FileWork, Leftover, ScheduledUndo, StartedUndo, UndoQueue, UndoTask};

/// How long a daemon that stops waits for what undoes something.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The means to act.
pub(crate) struct Executor {
    gatehouse: Gate,
    commands: CommandQueue<JobKind>,
    undoings: UndoQueue,
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
    fn end(self, reason: &Explanation) -> Option<Over> {
        match self {
            Self::Order(ticket) => {
                let record = ticket.record(AuditEvent::Failed, Some(reason.clone()));
                Some(Over { record, ticket: Some(ticket) })
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
    pub(crate) fn new(gatehouse: Gate, undoings: UndoQueue) -> io::Result<Self> {
        Ok(Self {
            gatehouse,
            commands: CommandQueue::default(),
            undoings,
            files: Worker::start()?,
            next_plan: 0,
            beginning: false,
            unstarted: Vec::new(),
        })
    }

    /// Does what the order says, one thing after the other, as far as it can be done now.
    pub(crate) fn execute(&mut self, underway: &mut Execution, setup: &Setup) -> ExecutionStep {
        while let Some(effect) = underway.order.effects().get(underway.next) {
            let request = match effect {
                Effect::Open(grants) => FirewallRequest::Grant(grants.clone()),
                Effect::Close(action) => {
                    let client = underway.ticket().client().clone();
                    FirewallRequest::Close(GrantOwner { client, action: action.clone() })
                }
                Effect::Run { timeout, undo: Some(undo), .. } => {
                    match self.plan(undo, *timeout, underway.order.ticket()) {
                        Ok(id) => return ExecutionStep::Waits(WaitsFor::Disk(id)),
                        Err(remark) => return ExecutionStep::Over(underway.end(Some(remark), false)),
                    }
                }
                Effect::Run { undo: None, .. } => match self.launch(underway, Vec::new()) {
                    Some(done) => return ExecutionStep::Over(done),
                    None => continue,
                },
            };
            match self.gatehouse.begin(request, setup) {
                RevocationProgress::Queued(id) => return ExecutionStep::Waits(WaitsFor::Firewall(id)),
                RevocationProgress::Ended(outcome) => {
                    if let Some(done) = self.note(underway, outcome) {
                        return ExecutionStep::Over(done);
                    }
                }
            }
        }
        ExecutionStep::Over(underway.end(None, false))
    }

    /// Goes on with an order when what it has waited for has ended.
    pub(crate) fn go_on(
        &mut self,
        underway: &mut Execution,
        met: StepResult,
        setup: &Setup,
    ) -> ExecutionStep {
        let failed = match met {
            StepResult::Firewall(outcome) => self.note(underway, outcome),
            StepResult::Disk(planned, Ok(())) => self.launch(underway, planned),
            StepResult::Disk(planned, Err(remark)) => {
                self.forget_all(&planned);
                Some(underway.end(Some(remark), false))
            }
        };
        match failed {
            Some(done) => ExecutionStep::Over(done),
            None => self.execute(underway, setup),
        }
    }

    /// What orders waited for and has ended.
    pub(crate) fn ended(&mut self, setup: &Setup) -> Vec<(WaitsFor, StepResult)> {
        let firewall = self.gatehouse.ended(setup).into_iter();
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
        planned.iter().for_each(|planned| self.undoings.forget(planned));
    }

    /// Runs what undoes something, when the disk knows that it begins.
    fn undo(&mut self, number: u64, outcome: Result<(), FileError>) {
        self.beginning = false;
        let Some((begun, undoing)) = self.undoings.begun(number, outcome) else { return };
        let UndoTask { argv, timeout, record, .. } = undoing;
        let owner = record.client.to_string();
        let job = Job { argv, timeout, owner, label: JobKind::Undoing(begun, record) };
        self.unstarted.extend(self.commands.start_undo(job, clock::steady()).err());
    }

    /// Notes what has come of an effect; the order's end, if it has failed.
    fn note(&mut self, underway: &mut Execution, outcome: Closed) -> Option<OrderResult> {
        match outcome {
            Ok(closed) => {
                match underway.order.effects().get(underway.next) {
                    Some(Effect::Open(_)) => underway.outcome = Outcome::Granted,
                    // What the action ran is undone now.
                    Some(Effect::Close(action)) => {
                        let client = underway.order.ticket().client();
                        self.undoings.run_now(|undone| {
                            undone.client == *client && undone.action.as_ref() == Some(action)
                        });
                    }
                    Some(Effect::Run { .. }) | None => {}
                }
                underway.closed.extend(closed.into_iter().map(ActiveGrant::record));
                underway.next = underway.next.saturating_add(1);
                None
            }
            Err(error) => {
                let no_room = underway.next == 0 && error == FirewallError::Full;
                let refused = match error {
                    FirewallError::TooMany(limit) => Some(Rejection::GrantsExceeded(limit)),
                    _ => None,
                };
                Some(OrderResult { refused, ..underway.end(Some(error.to_string()), no_room) })
            }
        }
    }

    /// The gate and its grants.
    pub(crate) const fn gatehouse(&mut self) -> &mut Gate {
        &mut self.gatehouse
    }

    /// What is to become of the gate.
    pub(crate) const fn standing(&self) -> GateState {
        self.gatehouse.standing()
    }

    /// How many commands run and wait for their turn, and how many wait for their time to undo something.
    pub(crate) fn queue_depths(&self) -> (CommandsState, usize) {
        let (running, waiting) = self.commands.counts();
        (CommandsState { running, waiting }, self.undoings.waiting())
    }

    /// The live grants.
    pub(crate) fn live(&self) -> Vec<ActiveGrant> {
        self.gatehouse.live()
    }

    /// Ends all that goes on for clients that are not there any more: what is open for them is closed, commands that wait
    /// for their turn do not run, what is to be undone is undone now. A command that runs goes on. Returns the grants and
    /// the commands that have ended so.
    pub(crate) fn end_for(&mut self, is_gone: &dyn Fn(&ClientName) -> bool) -> (Revoked, Vec<Over>) {
        let is_theirs = |label: &JobKind| matches!(label, JobKind::Order(ticket) if is_gone(ticket.client()));
        let reason =
            Explanation::new(AuditCause::ClientRemoved, "not run: its client was removed before its turn");
        let dropped = self.commands.drop_waiting(is_theirs);
        let dropped = dropped.into_iter().filter_map(|label| label.end(&reason)).collect();
        self.undoings.run_now(|undone| is_gone(&undone.client));
        (self.gatehouse.revoke(&|live| is_gone(&live.client)), dropped)
    }

    /// Readable when a command says something.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let files = [self.files.descriptor()];
        self.commands.descriptors().chain(self.gatehouse.descriptor()).chain(files)
    }

    /// Readable when the disk has taken what is to be undone.
    pub(crate) fn file_descriptor(&self) -> BorrowedFd<'_> {
        self.files.descriptor()
    }

    /// In what time `tend` has something to do, if no command ends before.
    pub(crate) fn time_to_deadline(&self) -> Duration {
        let deadline = self.commands.next_deadline().map(|at| at.saturating_sub(clock::steady()));
        let first = self.gatehouse.time_to_deadline();
        // While one begins, the thread tells when it has.
        let due = if self.beginning {
            None
        } else {
            self.undoings.next_due(|undoing, why| may_undo(&self.commands, undoing, why))
        };
        deadline.into_iter().chain(due).fold(first, Duration::min)
    }

    /// Lets what an earlier daemon left be undone as far as this config makes it; returns what is to be recorded of the
    /// rest.
    pub(crate) fn confirm_undoings(&mut self, setup: &Setup) -> Vec<AuditRecord> {
        let actions = &setup.config.actions;
        let refused =
            self.undoings.confirm(|undo| undo_is_of(actions, &undo.record, &undo.argument, &undo.argv));
        refused.into_iter().map(|(file, undoing)| not_of_the_config(&file, undoing)).collect()
    }

    /// Looks after the gate and commands, and undoes what is due; returns what is to be recorded.
    pub(crate) fn run_due(&mut self, setup: &Setup) -> Vec<Over> {
        self.gatehouse.run_due(setup);
        self.commands.read_output();
        let mut over = self.commands.reap(clock::steady());
        over.append(&mut self.unstarted);
        let Self { commands, undoings, .. } = self;
        if !self.beginning
            && let Some(work) = undoings.prepare_to_begin(|undoing, why| may_undo(commands, undoing, why))
        {
            self.beginning = true;
            self.files.ask(move || FilesDone::Begun(work.number(), work.run()));
        }
        over.into_iter().map(|done| self.conclude(done)).collect()
    }

    /// Ends the commands that run, but waits a while for those that undo something. What is to be undone later waits
    /// for the next daemon. Returns what is to be recorded.
    pub(crate) fn stop(&mut self) -> Vec<Over> {
        if let Err(error) = self.gatehouse.suspend() {
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
    fn plan(&mut self, undo: &ToUndo, timeout: Duration, ticket: &KnockContext) -> Result<u64, String> {
        let (mut planned, mut works) = (Vec::new(), Vec::new());
        for command in &undo.commands {
            let record = command.ticket(ticket).record(AuditEvent::Expired, None);
            let argument = undo.argument.clone();
            let undoing = UndoTask { argv: command.argv().to_vec(), timeout, argument, record };
            match self.undoings.prepare(undoing, undo.after) {
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
    fn launch(&mut self, underway: &mut Execution, planned: Vec<ScheduledUndo>) -> Option<OrderResult> {
        let mut begun = 0_usize;
        let mut failed = None;
        if let Some(Effect::Run { commands, timeout, .. }) = underway.order.effects().get(underway.next) {
            let ticket = underway.order.ticket();
            for command in commands {
                let label = JobKind::Order(command.ticket(ticket));
                let owner = ticket.client().to_string();
                let job = Job { argv: command.argv().to_vec(), timeout: *timeout, owner, label };
                match self.commands.start(job, clock::steady()) {
                    Ok(()) => begun = begun.saturating_add(1),
                    Err(error) => failed = Some(error.to_string()),
                }
            }
        }
        for plan in planned {
            // What has been done in part is undone as a whole.
            if begun > 0 { self.undoings.schedule(plan) } else { self.undoings.forget(&plan) }
        }
        underway.next = underway.next.saturating_add(1);
        if failed.is_none() {
            underway.commands = underway.commands.saturating_add(begun);
        }
        failed.map(|remark| underway.end(Some(remark), false))
    }

    /// What is to be recorded of a command that is over.
    fn conclude(&self, done: command_queue::FinishedJob<JobKind>) -> Over {
        let bad = match done.ended {
            Exit::Success => None,
            Exit::Failure(how) => Some(Explanation::new(AuditCause::CommandFailed, how)),
            Exit::TimedOut => Some(Explanation::new(AuditCause::Timeout, "ended at its timeout")),
        };
        let (record, ticket) = match done.label {
            JobKind::Order(ticket) => {
                let event = if bad.is_none() { AuditEvent::Done } else { AuditEvent::Failed };
                (ticket.record(event, bad), Some(ticket))
            }
            JobKind::Undoing(begun, record) => {
                self.undoings.end(begun);
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
        Over { record, ticket }
    }
}

/// One that is hastened waits for commands of its action: undone before they end, their effect would stay. They end by
/// their timeout.
fn may_undo(commands: &CommandQueue<JobKind>, undoing: &UndoTask, why: Due) -> bool {
    let AuditRecord { client, action, .. } = &undoing.record;
    let is_before = |label: &JobKind| matches!(label, JobKind::Order(ticket) if ticket.client() == client && ticket.action() == action.as_ref());
    commands.may_undo(client.as_str()) && (why == Due::InTime || !commands.has(is_before))
}

/// What an earlier daemon left to be undone and the config does not make: nothing is run that only a file names.
fn not_of_the_config(file: &Path, undoing: UndoTask) -> AuditRecord {
    log::error!(
        "undo: {}: not run: no action of this config makes it for {}: {:?}\nhint: run it by hand if it is yours, then remove the file; or restore the action's `undo`",
        file.display(),
        undoing.record.client,
        undoing.argv
    );
    let reason = "undo: not run: no action of this config makes this command";
    let reason = Some(Explanation::new(AuditCause::UndoRefused, reason));
    AuditRecord { event: AuditEvent::Failed, reason, ..undoing.record }
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
