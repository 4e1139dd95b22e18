//! Step 9 of the ladder: what an order says is done here, and undone in its time.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::gatehouse::{Gatehouse, Progress};
use super::run::Loaded;
use super::standing::Standing;
use super::state::{Begun, Left, Undoing, Undoings};
use super::status::CommandsState;
use crate::firewall::{FirewallError, Live, Opened, Outcome as Closed, Request, RequestId};
use crate::gate::{
    Cause, Command, Effect, Event, Explanation, Order, Outcome, Record, Rejection, Ticket, Undoing as ToUndo,
    undo_is_of,
};
use crate::knock::ClientName;
use crate::os::clock;
use crate::os::commands::{self, Commands, Ended, Job};

/// How long a daemon that stops waits for what undoes something.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The means to act.
pub(super) struct Deeds {
    gatehouse: Gatehouse,
    commands: Commands<Label>,
    undoings: Undoings,
}

/// An order that is being carried out.
pub(super) struct Underway {
    order: Order,
    attempt: Attempt,
    /// The place of the effect that comes next, or that is waited for.
    next: usize,
    outcome: Outcome,
    closed: Vec<Record>,
    /// How many commands have been started or wait.
    commands: usize,
}

/// Which attempt this is to carry an order out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    /// After it has found no room.
    Second,
}

/// How far an order has come.
pub(super) enum Carried {
    /// It is over.
    Over(Done),
    /// The firewall is at it: `go_on` with what comes of this request.
    Waits(RequestId),
}

/// What has come of an order.
pub(super) struct Done {
    /// How it went.
    pub(super) outcome: Outcome,
    /// What there is to say of that.
    pub(super) remark: String,
    /// Whether nothing of it is done, only because the firewall is full.
    pub(super) no_room: bool,
    /// Why it is refused after all: what its client holds already.
    pub(super) refused: Option<Rejection>,
    /// The records of what it has closed.
    pub(super) closed: Vec<Record>,
    /// How many commands run or wait.
    pub(super) commands: usize,
}

/// A command that is over.
pub(super) struct Over {
    /// What is to be recorded of it.
    pub(super) record: Record,
    /// Whose order it was; none of an undo task's.
    pub(super) ticket: Option<Ticket>,
}

impl Underway {
    /// An order of which nothing is done yet.
    pub(super) const fn of(order: Order, attempt: Attempt) -> Self {
        Self { order, attempt, next: 0, outcome: Outcome::Started, closed: Vec::new(), commands: 0 }
    }

    /// Who ordered it.
    pub(super) const fn ticket(&self) -> &Ticket {
        self.order.ticket()
    }

    /// Which attempt this is.
    pub(super) const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The order, when it is over.
    pub(super) fn into_order(self) -> Order {
        self.order
    }

    /// The end of it. What is done already ends in its time.
    fn end(&mut self, failure: Option<String>, no_room: bool) -> Done {
        let outcome = if failure.is_some() { Outcome::Failed } else { self.outcome };
        Done {
            outcome,
            remark: failure.unwrap_or_default(),
            no_room,
            refused: None,
            closed: std::mem::take(&mut self.closed),
            commands: if outcome == Outcome::Failed { 0 } else { self.commands },
        }
    }
}

/// What a command is run for.
enum Label {
    Order(Ticket),
    Undoing(Begun, Record),
}

impl Deeds {
    /// With the gate closed and what an earlier daemon left to be undone.
    pub(super) fn new(gatehouse: Gatehouse, undoings: Undoings) -> Self {
        Self { gatehouse, commands: Commands::default(), undoings }
    }

    /// Does what the order says, one thing after the other, as far as it can be done now.
    pub(super) fn act(&mut self, underway: &mut Underway, loaded: &Loaded) -> Carried {
        while let Some(effect) = underway.order.effects().get(underway.next) {
            let request = match effect {
                Effect::Open(grants) => Request::Grant(grants.clone()),
                Effect::Close(action) => {
                    let client = underway.ticket().client().clone();
                    Request::Close(Opened { client, action: action.clone() })
                }
                Effect::Run { commands, timeout, undo } => {
                    let launched = self.launch(commands, *timeout, undo.as_ref(), underway.order.ticket());
                    if let Err(remark) = launched {
                        return Carried::Over(underway.end(Some(remark), false));
                    }
                    underway.commands = underway.commands.saturating_add(commands.len());
                    underway.next = underway.next.saturating_add(1);
                    continue;
                }
            };
            match self.gatehouse.begin(request, loaded) {
                Progress::Queued(id) => return Carried::Waits(id),
                Progress::Ended(outcome) => {
                    if let Some(done) = self.note(underway, outcome) {
                        return Carried::Over(done);
                    }
                }
            }
        }
        Carried::Over(underway.end(None, false))
    }

    /// Goes on with an order when the firewall has done, or not, what it has waited for.
    pub(super) fn go_on(&mut self, underway: &mut Underway, outcome: Closed, loaded: &Loaded) -> Carried {
        match self.note(underway, outcome) {
            Some(done) => Carried::Over(done),
            None => self.act(underway, loaded),
        }
    }

    /// Notes what has come of an effect; the order's end, if it has failed.
    fn note(&mut self, underway: &mut Underway, outcome: Closed) -> Option<Done> {
        match outcome {
            Ok(closed) => {
                match underway.order.effects().get(underway.next) {
                    Some(Effect::Open(_)) => underway.outcome = Outcome::Granted,
                    // What the action ran is undone now.
                    Some(Effect::Close(action)) => {
                        self.undoings.hasten(underway.order.ticket().client(), action)
                    }
                    Some(Effect::Run { .. }) | None => {}
                }
                underway.closed.extend(closed.into_iter().map(Live::record));
                underway.next = underway.next.saturating_add(1);
                None
            }
            Err(error) => {
                let no_room = underway.next == 0 && error == FirewallError::Full;
                let refused = match error {
                    FirewallError::TooMany(limit) => Some(Rejection::GrantsExceeded(limit)),
                    _ => None,
                };
                Some(Done { refused, ..underway.end(Some(error.to_string()), no_room) })
            }
        }
    }

    /// The gate and its grants.
    pub(super) const fn gatehouse(&mut self) -> &mut Gatehouse {
        &mut self.gatehouse
    }

    /// What is to become of the gate.
    pub(super) const fn standing(&self) -> Standing {
        self.gatehouse.standing()
    }

    /// How many commands run and wait for their turn, and how many wait for their time to undo something.
    pub(super) fn at_work(&self) -> (CommandsState, usize) {
        let (running, waiting) = self.commands.counts();
        (CommandsState { running, waiting }, self.undoings.waiting())
    }

    /// The live grants.
    pub(super) fn live(&self) -> Vec<Live> {
        self.gatehouse.live()
    }

    /// Closes what is open for clients that are not there any more; returns what is to be recorded.
    pub(super) fn close_for_strangers(&mut self, known: impl Fn(&ClientName) -> bool) -> Vec<Record> {
        self.gatehouse.close_or_tell(&|live| !known(&live.client))
    }

    /// Readable when a command says something.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.commands.descriptors().chain(self.gatehouse.descriptor())
    }

    /// In what time `tend` has something to do, if no command ends before.
    pub(super) fn patience(&self) -> Duration {
        let deadline = self.commands.next_deadline().map(|at| at.saturating_sub(clock::steady()));
        let first = self.gatehouse.patience();
        let due = self.undoings.next_due(|undoing| self.may_undo(undoing));
        deadline.into_iter().chain(due).fold(first, Duration::min)
    }

    fn may_undo(&self, undoing: &Undoing) -> bool {
        self.commands.may_undo(undoing.record.client.as_str())
    }

    /// Lets what an earlier daemon left be undone as far as this config makes it; returns what is to be recorded of the
    /// rest.
    pub(super) fn confirm_undoings(&mut self, loaded: &Loaded) -> Vec<Record> {
        let actions = &loaded.config.actions;
        let refused =
            self.undoings.confirm(|undo| undo_is_of(actions, &undo.record, &undo.argument, &undo.argv));
        refused.into_iter().map(|(file, undoing)| not_of_the_config(&file, undoing)).collect()
    }

    /// Looks after the gate and commands, and undoes what is due; returns what is to be recorded.
    pub(super) fn tend(&mut self, loaded: &Loaded) -> Vec<Over> {
        self.gatehouse.tend(loaded);
        self.commands.listen();
        let mut over = self.commands.tend(clock::steady());
        while let Some((begun, undoing)) =
            self.undoings.begin(|undoing| self.commands.may_undo(undoing.record.client.as_str()))
        {
            let Undoing { argv, timeout, record, .. } = undoing;
            let owner = record.client.to_string();
            let job = Job { argv, timeout, owner, label: Label::Undoing(begun, record) };
            over.extend(self.commands.undo(job, clock::steady()).err());
        }
        over.into_iter().map(|done| self.conclude(done)).collect()
    }

    /// Ends the commands that run, but waits a while for those that undo something. What is to be undone later waits
    /// for the next daemon. Returns what is to be recorded.
    pub(super) fn stop(&mut self) -> Vec<Over> {
        if let Err(error) = self.gatehouse.rest() {
            log::error!("{error}; what is open stays open until the next start");
        }
        let ended = |label| match label {
            Label::Order(ticket) => {
                let reason = Explanation::new(Cause::DaemonStopped, "ended as the daemon stopped");
                let record = ticket.record(Event::Failed, Some(reason));
                Some(Over { record, ticket: Some(ticket) })
            }
            Label::Undoing(..) => None,
        };
        let killed = self.commands.kill(|label| matches!(label, Label::Order(_)));
        let mut records: Vec<_> = killed.into_iter().filter_map(ended).collect();
        let deadline = clock::steady().saturating_add(STOP_MAX);
        while !self.commands.is_idle() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            self.commands.listen();
            let over = self.commands.tend(clock::steady());
            records.extend(over.into_iter().map(|done| self.conclude(done)));
        }
        records
    }

    fn launch(
        &mut self,
        commands: &[Command],
        timeout: Duration,
        undo: Option<&ToUndo>,
        ticket: &Ticket,
    ) -> Result<(), String> {
        let mut planned = Vec::new();
        for command in undo.iter().flat_map(|undo| &undo.commands) {
            let record = command.ticket(ticket).record(Event::Expired, None);
            let argument = undo.map(|undo| undo.argument.clone()).unwrap_or_default();
            let undoing = Undoing { argv: command.argv().to_vec(), timeout, argument, record };
            match self.undoings.plan(undoing, undo.map(|undo| undo.after).unwrap_or_default()) {
                Ok(plan) => planned.extend(plan),
                Err(error) => {
                    planned.iter().for_each(|plan| self.undoings.forget(plan));
                    return Err(error.to_string());
                }
            }
        }
        let mut begun = 0_usize;
        let mut failed = None;
        for command in commands {
            let label = Label::Order(command.ticket(ticket));
            let owner = ticket.client().to_string();
            let job = Job { argv: command.argv().to_vec(), timeout, owner, label };
            match self.commands.start(job, clock::steady()) {
                Ok(()) => begun = begun.saturating_add(1),
                Err(error) => failed = Some(error.to_string()),
            }
        }
        for plan in planned {
            // What has been done in part is undone as a whole.
            if begun > 0 { self.undoings.keep(plan) } else { self.undoings.forget(&plan) }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is to be recorded of a command that is over.
    fn conclude(&self, done: commands::Done<Label>) -> Over {
        let bad = match done.ended {
            Ended::Well => None,
            Ended::Badly(how) => Some(Explanation::new(Cause::CommandFailed, how)),
            Ended::TooLate => Some(Explanation::new(Cause::Timeout, "ended at its timeout")),
        };
        let (record, ticket) = match done.label {
            Label::Order(ticket) => {
                let event = if bad.is_none() { Event::Done } else { Event::Failed };
                (ticket.record(event, bad), Some(ticket))
            }
            Label::Undoing(begun, record) => {
                self.undoings.end(begun);
                let event = if bad.is_none() { record.event } else { Event::Failed };
                let undo =
                    |bad: Explanation| Explanation::new(Cause::UndoFailed, format!("undo: {}", bad.detail));
                (Record { event, reason: bad.map(undo), ..record }, None)
            }
        };
        if !done.said.is_empty() {
            let action = record.action.as_ref().map_or("", |action| action.as_str());
            log::info!("{}: {action} said: {}", record.client, done.said);
        }
        Over { record, ticket }
    }
}

/// What an earlier daemon left to be undone and the config does not make: nothing is run that only a file names.
fn not_of_the_config(file: &Path, undoing: Undoing) -> Record {
    log::error!(
        "undo: {}: not run: no action of this config makes it for {}: {:?}\nhint: run it by hand if it is yours, then remove the file; or restore the action's `undo`",
        file.display(),
        undoing.record.client,
        undoing.argv
    );
    let reason = "undo: not run: no action of this config makes this command";
    let reason = Some(Explanation::new(Cause::UndoRefused, reason));
    Record { event: Event::Failed, reason, ..undoing.record }
}

/// Tells what an earlier daemon left half-done; returns what is to be recorded.
pub(super) fn tell_left(left: Vec<Left>) -> Vec<Record> {
    let mut records = Vec::new();
    for left in left {
        match left {
            Left::Begun(Undoing { argv, record, .. }) => {
                log::error!(
                    "undo: the daemon ended as this began, and it may not have run: {argv:?}\nhint: look whether it has, else run it by hand"
                );
                let reason = "undo: the daemon ended as it began; it may not have run";
                let reason = Some(Explanation::new(Cause::UndoUnknown, reason));
                records.push(Record { event: Event::Failed, reason, ..record });
            }
            Left::Damaged(path) => log::error!(
                "undo: {}: not as it was written; what it should have undone may still stand\nhint: undo it by hand, then remove the file",
                path.display()
            ),
        }
    }
    records
}
