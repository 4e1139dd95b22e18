//! Commands of doors: what opens, and later what closes. What is to be closed is on disk before anything opens, so that
//! it is closed in time whatever becomes of the daemon.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::script::{script, shown};
use crate::legacy::knockd::{Door, Orders, TruncatedCommand};
use crate::os::clock;
use crate::os::poll::Polled;
use crate::os::process::command_queue::{CommandQueue, Exit, Job, Room};
use crate::state::{Leftover, ScheduledUndo, StartedUndo, UndoError, UndoQueue, UndoTask};
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation, KeyAge};
use spa_knock_core::knock::{ClientName, Steady};

/// How many run at a time.
const RUNNING_MAX: usize = 64;
/// knockd's commands have no deadline.
const NO_DEADLINE: Duration = Duration::MAX;
/// While a start command runs, what closes is due so long after its time: should the daemon die meanwhile, nobody knows
/// when the command ends.
const RESERVE: Duration = Duration::from_secs(60);
/// When it is put off.
const SOON: Duration = Duration::from_secs(30);
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// What an undoing says of its start command: it runs, or it has ended.
const OPENING: &str = "opening";
const OPEN: &str = "open";
/// Where the words of an undoing that tell what it is begin; the shell is not given them.
const COMMAND_WORDS: usize = 3;

/// Everything that runs and that is still to be run.
pub(in crate::legacy) struct DoorCommands {
    commands: CommandQueue<DoorJob>,
    undo_queue: UndoQueue,
    /// Start commands that run and have something to be closed.
    opening: Vec<OpenDoor>,
    next: u64,
    /// Whose name stands in the records.
    client: ClientName,
}

/// Somebody for whom a door was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OpenDoor {
    /// No other has this number, in this daemon or another.
    number: String,
    door: String,
    source: IpAddr,
    stop: String,
    after: Duration,
}

enum DoorJob {
    Start { door: String, source: IpAddr, open_door: Option<OpenDoor> },
    Stop { door: String, source: IpAddr, begun: StartedUndo },
}

/// What is to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::legacy) enum CommandEvent {
    /// A command is started.
    Running { door: String, command: Vec<u8> },
    /// One ended with this status.
    Status { door: String, status: i32 },
    /// One could not be started; why, for people.
    NotStarted { door: String, reason: String },
    /// The time of a lease is over.
    Timeout { source: IpAddr, door: String },
    /// A command is too long.
    Truncated(TruncatedCommand),
    /// A command is over, or was never started: nothing for the log, but for the record.
    Finished { door: String, source: IpAddr, event: AuditEvent, reason: Option<Explanation> },
}

impl DoorCommands {
    /// With what an earlier daemon left to be closed.
    pub(in crate::legacy) fn new(mut undo_queue: UndoQueue, client: ClientName) -> Self {
        let start = clock::wall().as_millis();
        // Of a lease that is there twice, an earlier daemon died before it took the later record off.
        let open: BTreeSet<String> =
            undo_queue.all().filter(|task| phase(task) == OPEN).map(number).map(str::to_owned).collect();
        undo_queue.cancel(|task| phase(task) == OPENING && open.contains(number(task)));
        Self {
            commands: CommandQueue::with_room(Room::shared(RUNNING_MAX)),
            undo_queue: undo_queue.shared(),
            opening: Vec::new(),
            next: start,
            client,
        }
    }

    /// Lets what an earlier daemon left be closed as far as one of these doors has that very stop command. The rest is
    /// reported and not run.
    pub(in crate::legacy) fn confirm(&mut self, doors: &[Door]) {
        let refused = self.undo_queue.confirm(|task| doors.iter().any(|door| stops(door, task)));
        for (file, task) in refused {
            log::error!(
                "{}: not run: no section has this stop command: {:?}\nhint: run it by hand if it is yours, then remove the file",
                file.display(),
                task.argv.get(2).map_or("", String::as_str)
            );
        }
    }

    /// Does what the door does for this source.
    pub(in crate::legacy) fn open(&mut self, door: &Door, source: IpAddr) -> Vec<CommandEvent> {
        let Orders { start, stop } = match door.orders(source) {
            Ok(Some(orders)) => orders,
            Ok(None) => return Vec::new(),
            Err(truncated) => {
                let reason = "a command is too long".to_owned();
                return vec![CommandEvent::Truncated(truncated), failed(&door.name, source, reason)];
            }
        };
        let not_started = |reason: String| {
            let of_record = failed(&door.name, source, reason.clone());
            vec![CommandEvent::NotStarted { door: door.name.clone(), reason }, of_record]
        };
        let (start, stop) = (script(start), stop.map(script));
        let open_door =
            stop.zip(door.stop_after()).map(|(stop, after)| self.open_door(door, source, stop, after));
        let planned = match open_door.as_ref().map(|open_door| self.plan(open_door)).transpose() {
            Ok(planned) => planned.flatten(),
            // What could not be closed is not opened.
            Err(error) => return not_started(error.to_string()),
        };
        let label = DoorJob::Start { door: door.name.clone(), source, open_door: open_door.clone() };
        let job = Job { argv: shell(&start), timeout: NO_DEADLINE, owner: door.name.clone(), label };
        match self.commands.start(job, clock::steady()) {
            Ok(()) => {
                planned.into_iter().for_each(|planned| self.undo_queue.schedule(planned));
                self.opening.extend(open_door);
                vec![CommandEvent::Running { door: door.name.clone(), command: shown(&start) }]
            }
            Err(error) => {
                planned.iter().for_each(|planned| self.undo_queue.forget(planned));
                not_started(error.to_string())
            }
        }
    }

    /// Looks after all commands; returns what there is to log.
    pub(in crate::legacy) fn run_due(&mut self) -> Vec<CommandEvent> {
        let mut told = Vec::new();
        for done in self.commands.run_due(clock::steady()) {
            self.conclude(done.label, &done.ended, &done.said, &mut told);
        }
        self.prolong();
        while let Some((begun, task)) =
            self.undo_queue.start_due(|task, _| self.commands.may_undo(door_of(task)))
        {
            self.close(begun, task, &mut told);
        }
        told
    }

    /// Whether a command runs that opens what is to be closed.
    pub(in crate::legacy) fn is_opening(&self) -> bool {
        !self.opening.is_empty()
    }

    fn open_door(&mut self, door: &Door, source: IpAddr, stop: String, after: Duration) -> OpenDoor {
        self.next = self.next.saturating_add(1);
        OpenDoor { number: format!("knockd-{}", self.next), door: door.name.clone(), source, stop, after }
    }

    /// On disk, to be closed some time after the start command should have ended.
    fn plan(&mut self, open_door: &OpenDoor) -> Result<Option<ScheduledUndo>, UndoError> {
        self.undo_queue.plan(open_door.task(OPENING, &self.client), open_door.after.saturating_add(RESERVE))
    }

    /// What closes is not due while what opens still runs.
    fn prolong(&mut self) {
        for open_door in self.opening.clone() {
            let task = open_door.task(OPENING, &self.client);
            let due = self.undo_queue.due_of(|waiting| waiting.argv == task.argv);
            if due.is_some_and(|due| due < SOON)
                && let Ok(Some(planned)) = self.plan(&open_door)
            {
                self.undo_queue.schedule(planned);
            }
        }
    }

    fn conclude(&mut self, label: DoorJob, ended: &Exit, said: &str, told: &mut Vec<CommandEvent>) {
        let (door, source, event, open_door) = match label {
            DoorJob::Start { door, source, open_door } => (door, source, AuditEvent::Done, open_door),
            DoorJob::Stop { door, source, begun } => {
                self.undo_queue.end(begun);
                (door, source, AuditEvent::Expired, None)
            }
        };
        if !said.is_empty() {
            log::info!("{door}: said: {said}");
        }
        told.extend(status(&door, ended));
        told.push(over(door, source, event, ended));
        let Some(open_door) = open_door else { return };
        self.opening.retain(|opening| *opening != open_door);
        // From here on its time runs. The later record goes once the right one is there.
        match self.undo_queue.plan(open_door.task(OPEN, &self.client), open_door.after) {
            Ok(planned) => planned.into_iter().for_each(|planned| self.undo_queue.schedule(planned)),
            Err(error) => return log::error!("{error}: [{}] closes later than it should", open_door.door),
        }
        let opening = open_door.task(OPENING, &self.client);
        self.undo_queue.cancel(|waiting| waiting.argv == opening.argv);
    }

    fn close(&mut self, begun: StartedUndo, task: UndoTask, told: &mut Vec<CommandEvent>) {
        let (Some(open_door), stop) = (OpenDoor::of(&task), task.argv) else {
            return self.undo_queue.end(begun);
        };
        told.push(CommandEvent::Timeout { source: open_door.source, door: open_door.door.clone() });
        told.push(CommandEvent::Running { door: open_door.door.clone(), command: shown(&open_door.stop) });
        let owner = open_door.door.clone();
        let label = DoorJob::Stop { door: open_door.door, source: open_door.source, begun };
        let argv = stop.into_iter().take(COMMAND_WORDS).collect();
        let job = Job { argv, timeout: NO_DEADLINE, owner, label };
        if let Err(done) = self.commands.start_undo(job, clock::steady()) {
            self.conclude(done.label, &done.ended, &done.said, told);
        }
    }
}

impl Polled for DoorCommands {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.commands.fds(out);
    }

    /// When something is to be closed: the commands themselves have no deadline.
    fn deadline(&self) -> Option<Steady> {
        let left = self.undo_queue.next_due(|task, _| self.commands.may_undo(door_of(task)));
        left.map(|left| clock::steady().plus(left))
    }
}

impl OpenDoor {
    fn task(&self, phase: &str, client: &ClientName) -> UndoTask {
        let mut argv = shell(&self.stop);
        // Two leases are closed twice, even if by the same command.
        argv.extend([self.number.clone(), phase.to_owned(), self.door.clone()]);
        let record = AuditRecord {
            event: AuditEvent::Expired,
            client: client.clone(),
            key: KeyAge::Current,
            action: None,
            addresses: vec![self.source],
            source: None,
            seconds: u32::try_from(self.after.as_secs()).unwrap_or(u32::MAX),
            reason: None,
            knock: None,
            via: None,
        };
        UndoTask { argv, timeout: NO_DEADLINE, argument: String::new(), record }
    }

    fn of(task: &UndoTask) -> Option<Self> {
        let [_, _, stop, number, _, door] = task.argv.as_slice() else { return None };
        let source = *task.record.addresses.first()?;
        let after = Duration::from_secs(task.record.seconds.into());
        Some(Self { number: number.clone(), door: door.clone(), source, stop: stop.clone(), after })
    }
}

/// Whether this is the stop command of this door for the source that it names.
fn stops(door: &Door, task: &UndoTask) -> bool {
    let Some(open_door) = OpenDoor::of(task) else { return false };
    let stop = door.orders(open_door.source).ok().flatten().and_then(|orders| orders.stop);
    door.name == open_door.door
        && stop.map(script).as_ref() == Some(&open_door.stop)
        && task.argv.starts_with(&shell(&open_door.stop))
}

/// What an earlier daemon left half-done, for people.
pub(in crate::legacy) fn report_interrupted(left: Vec<Leftover>) {
    for left in left {
        match left {
            Leftover::Begun(task) => log::error!(
                "the daemon ended as this began, and it may not have run: {:?}",
                task.argv.get(2).map_or("", String::as_str)
            ),
            Leftover::Damaged(path) => log::error!("{}: damaged: what it says is not run", path.display()),
        }
    }
}

/// The lease's number, behind the words of the command.
fn number(task: &UndoTask) -> &str {
    task.argv.get(COMMAND_WORDS).map_or("", String::as_str)
}

/// The door that it closes.
fn door_of(task: &UndoTask) -> &str {
    task.argv.last().map_or("", String::as_str)
}

/// What it says of its start command.
fn phase(task: &UndoTask) -> &str {
    task.argv.get(COMMAND_WORDS.saturating_add(1)).map_or("", String::as_str)
}

fn failed(door: &str, source: IpAddr, reason: String) -> CommandEvent {
    ended_badly(door, source, Explanation::new(AuditCause::ActionFailed, reason))
}

fn ended_badly(door: &str, source: IpAddr, reason: Explanation) -> CommandEvent {
    CommandEvent::Finished { door: door.to_owned(), source, event: AuditEvent::Failed, reason: Some(reason) }
}

/// What the record says of a command that is over; `event` is how it ends if it ends well.
fn over(door: String, source: IpAddr, event: AuditEvent, ended: &Exit) -> CommandEvent {
    let (cause, bad) = match ended {
        Exit::Success => return CommandEvent::Finished { door, source, event, reason: None },
        Exit::Failure(how) => (AuditCause::CommandFailed, how.as_str()),
        Exit::TimedOut => (AuditCause::Timeout, "ended at its timeout"),
    };
    let reason = match event {
        AuditEvent::Expired => Explanation::new(AuditCause::UndoFailed, format!("stop command: {bad}")),
        _ => Explanation::new(cause, bad),
    };
    ended_badly(&door, source, reason)
}

fn shell(command: &str) -> Vec<String> {
    SHELL.into_iter().chain([command]).map(str::to_owned).collect()
}

/// knockd tells the status of an exit, and 0 for an end by a signal.
fn status(door: &str, ended: &Exit) -> Option<CommandEvent> {
    let door = door.to_owned();
    match ended {
        Exit::Success => None,
        Exit::TimedOut => Some(CommandEvent::Status { door, status: 0 }),
        Exit::Failure(how) if how.starts_with("signal") => Some(CommandEvent::Status { door, status: 0 }),
        Exit::Failure(how) => {
            Some(match how.strip_prefix("exit status: ").and_then(|code| code.parse().ok()) {
                Some(status) => CommandEvent::Status { door, status },
                None => CommandEvent::NotStarted { door, reason: how.clone() },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::knockd::ShellCommand;

    fn door(start: &str, stop: &str, timeout: i32) -> Door {
        Door {
            start: Some(ShellCommand::new(start.as_bytes())),
            stop: Some(ShellCommand::new(stop.as_bytes())),
            command_timeout: timeout,
            ..Door::new("d".to_owned())
        }
    }

    fn door_commands(state: &std::path::Path) -> DoorCommands {
        let (undo_queue, _) = UndoQueue::open(state, "boot".to_owned()).unwrap();
        DoorCommands::new(undo_queue, "knockd".parse().unwrap())
    }

    /// What is told until nothing runs any more and nothing is due.
    fn told_until_quiet(door_commands: &mut DoorCommands) -> Vec<CommandEvent> {
        let mut told = Vec::new();
        for _ in 0..1_000 {
            told.extend(door_commands.run_due());
            if door_commands.commands.is_idle()
                && door_commands.deadline().is_none_or(|due| due > clock::steady())
            {
                return told;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("commands run for over 5 s");
    }

    fn running(command: &str) -> CommandEvent {
        CommandEvent::Running { door: "d".to_owned(), command: command.as_bytes().to_vec() }
    }

    #[test]
    fn what_closes_runs_after_what_opens_has_ended_and_its_status_is_told() {
        let state = tempfile::tempdir().unwrap();
        let mut door_commands = door_commands(state.path());
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(door_commands.open(&door("sleep 0.2", "exit 4", 0), source), [running("sleep 0.2")]);
        assert!(
            door_commands.is_opening()
                && door_commands.deadline().is_some_and(|due| due > clock::steady().plus(RESERVE / 2))
        );
        assert_eq!(
            told_until_quiet(&mut door_commands),
            [
                over("d".to_owned(), source, AuditEvent::Done, &Exit::Success),
                CommandEvent::Timeout { source, door: "d".to_owned() },
                running("exit 4"),
                CommandEvent::Status { door: "d".to_owned(), status: 4 },
                ended_badly(
                    "d",
                    source,
                    Explanation::new(AuditCause::UndoFailed, "stop command: exit status: 4")
                ),
            ]
        );
        assert_eq!(door_commands.undo_queue.waiting(), 0);
    }

    #[test]
    fn a_signal_is_status_0_and_what_is_never_closed_is_not_put_on_record() {
        let state = tempfile::tempdir().unwrap();
        let mut door_commands = door_commands(state.path());
        let source: IpAddr = "fd00::1".parse().unwrap();
        door_commands.open(&door("kill -9 $$", "true", -1), source);
        let told = told_until_quiet(&mut door_commands);
        assert_eq!(told.first(), Some(&CommandEvent::Status { door: "d".to_owned(), status: 0 }));
        assert!(matches!(&told[1..], [CommandEvent::Finished { event: AuditEvent::Failed, .. }]), "{told:?}");
        assert_eq!(door_commands.undo_queue.waiting(), 0);
    }

    #[test]
    fn a_lease_that_is_on_record_twice_is_closed_once() {
        let state = tempfile::tempdir().unwrap();
        let mut first = door_commands(state.path());
        let open_door =
            first.open_door(&door("", "", 0), "10.0.0.1".parse().unwrap(), "true".to_owned(), Duration::ZERO);
        for phase in [OPENING, OPEN] {
            let task = open_door.task(phase, &first.client);
            let planned = first.undo_queue.plan(task, Duration::from_secs(9)).unwrap().unwrap();
            first.undo_queue.schedule(planned);
        }
        drop(first);
        let second = door_commands(state.path());
        assert_eq!(second.undo_queue.all().map(phase).collect::<Vec<_>>(), [OPEN]);
        assert_eq!(second.undo_queue.all().find_map(OpenDoor::of), Some(open_door));
    }
}
