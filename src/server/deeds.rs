//! Step 9 of the ladder: what an order says is done here, and undone in its time.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::gatehouse::Gatehouse;
use super::run::Loaded;
use super::standing::Standing;
use super::state::{Begun, Left, Undoing, Undoings};
use super::status::CommandsState;
use crate::firewall::{FirewallError, Live};
use crate::gate::{
    Cause, Command, Effect, Event, Explanation, Order, Outcome, Record, Ticket, Undoing as ToUndo, undo_is_of,
};
use crate::knock::{ActionName, ClientName};
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

/// What has come of an order so far.
pub(super) struct Done {
    /// How it went.
    pub(super) outcome: Outcome,
    /// What there is to say of that.
    pub(super) remark: String,
    /// Whether nothing of it is done, only because the firewall is full.
    pub(super) no_room: bool,
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

    /// Does what the order says, one thing after the other.
    pub(super) fn act(&mut self, order: &Order, loaded: &Loaded) -> Done {
        let (mut outcome, mut closed, mut commands) = (Outcome::Started, Vec::new(), 0_usize);
        for (before, effect) in order.effects().iter().enumerate() {
            let mut no_room = false;
            let done = match effect {
                Effect::Open(grants) => match self.gatehouse.grant(grants, loaded) {
                    Ok(()) => Ok(Outcome::Granted),
                    Err(error) => {
                        no_room = before == 0 && error == FirewallError::Full;
                        Err(error.to_string())
                    }
                },
                Effect::Close(action) => self.close(action, order.ticket()).map(|lives| {
                    closed.extend(lives.into_iter().map(Live::record));
                    Outcome::Started
                }),
                Effect::Run { commands: run, timeout, undo } => {
                    commands = commands.saturating_add(run.len());
                    self.launch(run, *timeout, undo.as_ref(), order.ticket())
                }
            };
            match done {
                Ok(Outcome::Granted) => outcome = Outcome::Granted,
                Ok(_) => {}
                // What is done already ends in its time.
                Err(remark) => {
                    return Done { outcome: Outcome::Failed, remark, no_room, closed, commands: 0 };
                }
            }
        }
        Done { outcome, remark: String::new(), no_room: false, closed, commands }
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

    /// What the client has opened by this action is closed, and what that ran is undone now.
    fn close(&mut self, action: &ActionName, ticket: &Ticket) -> Result<Vec<Live>, String> {
        let its_own = |live: &Live| live.client == *ticket.client() && live.action == *action;
        let closed = self.gatehouse.close(&its_own).map_err(|error| error.to_string())?;
        self.undoings.hasten(ticket.client(), action);
        Ok(closed)
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
    ) -> Result<Outcome, String> {
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
        failed.map_or(Ok(Outcome::Started), Err)
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
