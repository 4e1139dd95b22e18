//! Runs the start and stop commands of doors. The stop command is on disk before the start command runs, so it runs on
//! time even if the daemon stops or crashes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::script::{script, shown};
use crate::legacy::knockd::{Door, Orders, TruncatedCommand};
use crate::os::clock;
use crate::os::poll::Polled;
use crate::os::process::command_queue::{CommandQueue, Exit, Job, QueueLimits};
use crate::state::{Leftover, ScheduledUndo, StartedUndo, UndoError, UndoQueue, UndoTask};
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation, KeyAge};
use spa_knock_core::knock::{ClientName, Steady};

/// How many commands run at a time.
const RUNNING_MAX: usize = 64;
/// knockd's commands have no deadline.
const NO_DEADLINE: Duration = Duration::MAX;
/// While a start command runs, its stop command is due this much later than `Cmd_Timeout`. If the daemon dies in the
/// meantime, no one knows when the start command exits.
const RESERVE: Duration = Duration::from_secs(60);
/// If the start command still runs this long before its stop command is due, the stop command is postponed.
const SOON: Duration = Duration::from_secs(30);
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Phase of an undo task: its start command is running.
const OPENING: &str = "opening";
/// Phase of an undo task: its start command has exited.
const OPEN: &str = "open";
/// Words of an undo task that are its command. The words after them identify it and are not passed to the shell.
const COMMAND_WORDS: usize = 3;

/// The commands that are running and the stop commands that are due later.
pub(in crate::legacy) struct DoorCommands {
    commands: CommandQueue<DoorJob>,
    undo_queue: UndoQueue,
    /// Doors whose start command is running and that have a stop command.
    opening: Vec<OpenDoor>,
    next: u64,
    /// The client name in audit records.
    client: ClientName,
}

/// A door that has opened for a source and still has a stop command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OpenDoor {
    /// Unique, also among those of earlier daemons.
    number: String,
    door: String,
    source: IpAddr,
    stop: String,
    after: Duration,
}

enum DoorJob {
    Start { door: String, source: IpAddr, open_door: Option<OpenDoor> },
    Stop { door: String, source: IpAddr, started: StartedUndo },
}

/// An event for the log or the audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::legacy) enum CommandEvent {
    /// A command was started.
    Running { door: String, command: Vec<u8> },
    /// A command exited with this status, which is not 0, or was killed by a signal (0).
    Status { door: String, status: i32 },
    /// A command could not be started, for this human-readable reason.
    NotStarted { door: String, reason: String },
    /// `Cmd_Timeout` of an open door has passed.
    Timeout { source: IpAddr, door: String },
    /// A command is too long and is not run.
    Truncated(TruncatedCommand),
    /// A command has ended or could not be started. For the audit record, not for the log.
    Finished { door: String, source: IpAddr, event: AuditEvent, reason: Option<Explanation> },
}

impl DoorCommands {
    /// Starts with the stop commands that an earlier daemon has left in `undo_queue`.
    pub(in crate::legacy) fn new(mut undo_queue: UndoQueue, client: ClientName) -> Self {
        let start = clock::wall().as_millis();
        // An open door with two tasks: an earlier daemon died before it removed the task for the phase `OPENING`.
        let open: BTreeSet<String> =
            undo_queue.all().filter(|task| phase(task) == OPEN).map(number).map(str::to_owned).collect();
        undo_queue.cancel(|task| phase(task) == OPENING && open.contains(number(task)));
        Self {
            commands: CommandQueue::with_limits(QueueLimits::shared(RUNNING_MAX)),
            undo_queue: undo_queue.shared(),
            opening: Vec::new(),
            next: start,
            client,
        }
    }

    /// Allows each stop command that an earlier daemon has left to run if one of `doors` has exactly this stop command.
    /// All others are logged and not run.
    pub(in crate::legacy) fn confirm(&mut self, doors: &[Door]) {
        let refused = self.undo_queue.confirm(|task| doors.iter().any(|door| stops(door, task)));
        for (file, task) in refused {
            log::error!(
                "{}: not run: no section has this stop command: {:?}\n\
                 hint: if the command is yours, run it manually; then remove the file",
                file.display(),
                task.argv.get(2).map_or("", String::as_str)
            );
        }
    }

    /// Runs the door's start command for this source, and schedules its stop command.
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
            let finished = failed(&door.name, source, reason.clone());
            vec![CommandEvent::NotStarted { door: door.name.clone(), reason }, finished]
        };
        let (start, stop) = (script(start), stop.map(script));
        let open_door =
            stop.zip(door.stop_after()).map(|(stop, after)| self.open_door(door, source, stop, after));
        let planned = match open_door.as_ref().map(|open_door| self.plan(open_door)).transpose() {
            Ok(planned) => planned.flatten(),
            // Do not open what could not be closed.
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

    /// Handles commands that have ended and starts stop commands that are due. Returns the events to log.
    pub(in crate::legacy) fn run_due(&mut self) -> Vec<CommandEvent> {
        let mut events = Vec::new();
        for done in self.commands.run_due(clock::steady()) {
            self.conclude(done.label, &done.ended, &done.output, &mut events);
        }
        self.postpone_stop_commands();
        while let Some((started, task)) =
            self.undo_queue.start_due(|task, _| self.commands.may_undo(door_of(task)))
        {
            self.close(started, task, &mut events);
        }
        events
    }

    /// Whether a start command is running whose door has a stop command.
    pub(in crate::legacy) fn is_opening(&self) -> bool {
        !self.opening.is_empty()
    }

    fn open_door(&mut self, door: &Door, source: IpAddr, stop: String, after: Duration) -> OpenDoor {
        self.next = self.next.saturating_add(1);
        OpenDoor { number: format!("knockd-{}", self.next), door: door.name.clone(), source, stop, after }
    }

    /// Writes the stop command to disk. It is due `RESERVE` later than `Cmd_Timeout`.
    fn plan(&mut self, open_door: &OpenDoor) -> Result<Option<ScheduledUndo>, UndoError> {
        self.undo_queue.plan(open_door.task(OPENING, &self.client), open_door.after.saturating_add(RESERVE))
    }

    /// Postpones stop commands whose start command is still running.
    fn postpone_stop_commands(&mut self) {
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

    fn conclude(&mut self, label: DoorJob, ended: &Exit, output: &str, events: &mut Vec<CommandEvent>) {
        let (door, source, event, open_door) = match label {
            DoorJob::Start { door, source, open_door } => (door, source, AuditEvent::Done, open_door),
            DoorJob::Stop { door, source, started } => {
                self.undo_queue.end(started);
                (door, source, AuditEvent::Expired, None)
            }
        };
        if !output.is_empty() {
            log::info!("{door}: command printed: {output}");
        }
        events.extend(status(&door, ended));
        events.push(finished(door, source, event, ended));
        let Some(open_door) = open_door else { return };
        self.opening.retain(|opening| *opening != open_door);
        // Cmd_Timeout starts now. The task for the phase `OPENING` is removed after the one with the right time exists.
        match self.undo_queue.plan(open_door.task(OPEN, &self.client), open_door.after) {
            Ok(planned) => planned.into_iter().for_each(|planned| self.undo_queue.schedule(planned)),
            Err(error) => return log::error!("{error}; [{}] will be closed late", open_door.door),
        }
        let opening = open_door.task(OPENING, &self.client);
        self.undo_queue.cancel(|waiting| waiting.argv == opening.argv);
    }

    fn close(&mut self, started: StartedUndo, task: UndoTask, events: &mut Vec<CommandEvent>) {
        let (Some(open_door), stop) = (OpenDoor::of(&task), task.argv) else {
            return self.undo_queue.end(started);
        };
        events.push(CommandEvent::Timeout { source: open_door.source, door: open_door.door.clone() });
        events.push(CommandEvent::Running { door: open_door.door.clone(), command: shown(&open_door.stop) });
        let owner = open_door.door.clone();
        let label = DoorJob::Stop { door: open_door.door, source: open_door.source, started };
        let argv = stop.into_iter().take(COMMAND_WORDS).collect();
        let job = Job { argv, timeout: NO_DEADLINE, owner, label };
        if let Err(done) = self.commands.start_undo(job, clock::steady()) {
            self.conclude(done.label, &done.ended, &done.output, events);
        }
    }
}

impl Polled for DoorCommands {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.commands.fds(out);
    }

    /// When the next stop command is due. Running commands have no deadline.
    fn deadline(&self) -> Option<Steady> {
        let next_due = self.undo_queue.next_due(|task, _| self.commands.may_undo(door_of(task)));
        next_due.map(|delay| clock::steady().plus(delay))
    }
}

impl OpenDoor {
    fn task(&self, phase: &str, client: &ClientName) -> UndoTask {
        let mut argv = shell(&self.stop);
        // The number makes tasks with the same command different: a door that opens twice is closed twice.
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
            claim: None,
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

/// Whether `task` is the stop command of `door` for the source in the task.
fn stops(door: &Door, task: &UndoTask) -> bool {
    let Some(open_door) = OpenDoor::of(task) else { return false };
    let stop = door.orders(open_door.source).ok().flatten().and_then(|orders| orders.stop);
    door.name == open_door.door
        && stop.map(script).as_ref() == Some(&open_door.stop)
        && task.argv.starts_with(&shell(&open_door.stop))
}

/// Logs the stop commands that an earlier daemon had started but not finished, and damaged files.
pub(in crate::legacy) fn report_interrupted(leftovers: Vec<Leftover>) {
    for leftover in leftovers {
        match leftover {
            Leftover::Begun(task) => log::error!(
                "the daemon exited while starting this stop command, so it may not have run: {:?}",
                task.argv.get(2).map_or("", String::as_str)
            ),
            Leftover::Damaged(path) => log::error!("{}: damaged; its command is not run", path.display()),
        }
    }
}

/// The number of the open door, after the words of the command.
fn number(task: &UndoTask) -> &str {
    task.argv.get(COMMAND_WORDS).map_or("", String::as_str)
}

/// The name of the door that `task` closes.
fn door_of(task: &UndoTask) -> &str {
    task.argv.last().map_or("", String::as_str)
}

/// `OPENING` or `OPEN`.
fn phase(task: &UndoTask) -> &str {
    task.argv.get(COMMAND_WORDS.saturating_add(1)).map_or("", String::as_str)
}

fn failed(door: &str, source: IpAddr, reason: String) -> CommandEvent {
    failed_with(door, source, Explanation::new(AuditCause::ActionFailed, reason))
}

fn failed_with(door: &str, source: IpAddr, reason: Explanation) -> CommandEvent {
    CommandEvent::Finished { door: door.to_owned(), source, event: AuditEvent::Failed, reason: Some(reason) }
}

/// The audit event of a command that has ended. `event` is the event if it succeeded.
fn finished(door: String, source: IpAddr, event: AuditEvent, ended: &Exit) -> CommandEvent {
    let (cause, failure) = match ended {
        Exit::Success => return CommandEvent::Finished { door, source, event, reason: None },
        Exit::Failure(how) => (AuditCause::CommandFailed, how.as_str()),
        Exit::TimedOut => (AuditCause::Timeout, "timed out"),
    };
    let reason = match event {
        AuditEvent::Expired => Explanation::new(AuditCause::UndoFailed, format!("stop command: {failure}")),
        _ => Explanation::new(cause, failure),
    };
    failed_with(&door, source, reason)
}

fn shell(command: &str) -> Vec<String> {
    SHELL.into_iter().chain([command]).map(str::to_owned).collect()
}

/// As in knockd: the exit status, or 0 if a signal killed the command.
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

    /// The events until no command runs and none is due.
    fn events_until_idle(door_commands: &mut DoorCommands) -> Vec<CommandEvent> {
        let mut events = Vec::new();
        for _ in 0..1_000 {
            events.extend(door_commands.run_due());
            if door_commands.commands.is_idle()
                && door_commands.deadline().is_none_or(|due| due > clock::steady())
            {
                return events;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("commands have been running for over 5 s");
    }

    fn running(command: &str) -> CommandEvent {
        CommandEvent::Running { door: "d".to_owned(), command: command.as_bytes().to_vec() }
    }

    #[test]
    fn the_stop_command_runs_after_the_start_command_has_exited_and_its_status_is_reported() {
        let state = tempfile::tempdir().unwrap();
        let mut door_commands = door_commands(state.path());
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(door_commands.open(&door("sleep 0.2", "exit 4", 0), source), [running("sleep 0.2")]);
        assert!(
            door_commands.is_opening()
                && door_commands.deadline().is_some_and(|due| due > clock::steady().plus(RESERVE / 2))
        );
        assert_eq!(
            events_until_idle(&mut door_commands),
            [
                finished("d".to_owned(), source, AuditEvent::Done, &Exit::Success),
                CommandEvent::Timeout { source, door: "d".to_owned() },
                running("exit 4"),
                CommandEvent::Status { door: "d".to_owned(), status: 4 },
                failed_with(
                    "d",
                    source,
                    Explanation::new(AuditCause::UndoFailed, "stop command: exit status: 4")
                ),
            ]
        );
        assert_eq!(door_commands.undo_queue.waiting(), 0);
    }

    #[test]
    fn a_signal_is_status_0_and_a_negative_cmd_timeout_schedules_no_stop_command() {
        let state = tempfile::tempdir().unwrap();
        let mut door_commands = door_commands(state.path());
        let source: IpAddr = "fd00::1".parse().unwrap();
        door_commands.open(&door("kill -9 $$", "true", -1), source);
        let events = events_until_idle(&mut door_commands);
        assert_eq!(events.first(), Some(&CommandEvent::Status { door: "d".to_owned(), status: 0 }));
        assert!(
            matches!(&events[1..], [CommandEvent::Finished { event: AuditEvent::Failed, .. }]),
            "{events:?}"
        );
        assert_eq!(door_commands.undo_queue.waiting(), 0);
    }

    #[test]
    fn an_open_door_with_two_undo_tasks_is_closed_once() {
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
