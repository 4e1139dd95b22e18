//! The doors of a `knockd.conf` with their watcher: logs its reports and runs the commands. Part of the event loop of
//! the legacy daemon or of `spa-knockd run`.

mod restart;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::commands::{CommandEvent, DoorCommands, report_interrupted};
use super::config_file::{KnockdConfig, read_list};
use super::knock_log::{KnockLog, LogEvent};
use super::watcher_process::{LegacyWatchConfig, LegacyWatcher};
use crate::ipc::{FromShell, OnMissingInterface};
use crate::legacy::ipc::FromLegacyWatcher;
use crate::legacy::knockd::{Door, GrantSpec, LogMessage, MatchEvent, MatchStage, OneTimeList};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use crate::os::poll::Polled;
use crate::state::{self, StateError, UndoQueue};
use crate::supervisor::child::Disconnected;
use crate::supervisor::program::Program;
use crate::supervisor::restart::Restart;
use spa_knock_core::auth::{AuditEvent as KnockResult, Explanation};
use spa_knock_core::knock::{ClientName, Steady};

/// Most reports to handle before the rest of the event loop runs.
const BATCH: usize = 256;
/// How long a daemon that stops waits for running start commands.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// The doors, their watcher, their log and their commands.
pub(crate) struct Doors {
    program: Rc<Result<Program, FileError>>,
    doors: Vec<Door>,
    /// A door with one-time sequences that is not listed here has used them up and no longer opens.
    lists: BTreeMap<usize, OneTimeList>,
    /// `None` if there are no doors. Stop commands still run.
    watch_config: Option<LegacyWatchConfig>,
    watcher: Option<LegacyWatcher>,
    restart: Restart,
    knock_log: KnockLog,
    door_commands: DoorCommands,
}

/// The doors of a new config, and a watcher for them.
pub(crate) struct NextDoors {
    watch_config: LegacyWatchConfig,
    /// `None` if the present one, if any, continues.
    watcher: Option<LegacyWatcher>,
    doors: Vec<Door>,
    lists: BTreeMap<usize, OneTimeList>,
}

/// An event that the daemon must act on or record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DoorOutcome {
    /// A door has opened for this source, and its command runs, if it has one.
    Opened {
        /// The name of the door.
        door: String,
        /// The source of the knock, which may be spoofed.
        source: IpAddr,
        /// The grant that the daemon must make, if the door has `Open`.
        opening: Option<GrantSpec>,
    },
    /// A command of a door has ended.
    CommandFinished {
        /// The name of the door.
        door: String,
        /// The source that the command ran for.
        source: IpAddr,
        /// Its result.
        event: KnockResult,
        /// The reason, if it failed.
        reason: Option<Explanation>,
    },
}

impl Doors {
    /// Creates the state without doors. Loads the stop commands that an earlier daemon has left in `folder`, if given.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn open(
        program: Rc<Result<Program, FileError>>,
        folder: Option<&Path>,
        client: ClientName,
        knock_log: KnockLog,
    ) -> Result<Self, StateError> {
        let (undo_queue, left) = match folder {
            Some(folder) => state::open_undo_queue_in(folder)?,
            None => (UndoQueue::nowhere(), Vec::new()),
        };
        report_interrupted(left);
        Ok(Self {
            program,
            doors: Vec::new(),
            lists: BTreeMap::new(),
            watch_config: None,
            watcher: None,
            restart: Restart::new(),
            knock_log,
            door_commands: DoorCommands::new(undo_queue, client),
        })
    }

    /// Starts a watcher for these doors. If its settings are the same, the present one continues, with its attempts.
    ///
    /// # Errors
    /// A human-readable reason why the new one does not watch. Nothing has changed in this case.
    pub(crate) fn prepare(
        &self,
        knockd_config: KnockdConfig,
        watch_config: LegacyWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<NextDoors, String> {
        // A watcher that has lost an interface is replaced anyway, so a missing interface must not prevent a reload.
        let watcher = match self.watch_config.as_ref() == Some(&watch_config) {
            true => None,
            false => Some(self.start_watcher(&watch_config, missing)?),
        };
        Ok(NextDoors { watch_config, watcher, doors: knockd_config.doors, lists: knockd_config.lists })
    }

    /// Like `prepare`, if no interface exists yet: retries until one does.
    pub(crate) fn prepare_without_interfaces(
        &mut self,
        knockd_config: KnockdConfig,
        watch_config: LegacyWatchConfig,
    ) -> NextDoors {
        log::error!("knock sequences: no interface exists yet; waiting for one");
        self.restart.look_later();
        NextDoors { watch_config, watcher: None, doors: knockd_config.doors, lists: knockd_config.lists }
    }

    /// Replaces the doors.
    pub(crate) fn activate(&mut self, next: NextDoors) {
        let NextDoors { watch_config, watcher, doors, lists } = next;
        (self.watch_config, self.doors) = (Some(watch_config), doors);
        let mut known = std::mem::replace(&mut self.lists, lists);
        if let Some(watcher) = watcher {
            self.watcher = Some(watcher);
            self.restart = Restart::new();
            known.clear();
        }
        self.door_commands.confirm(&self.doors);
        self.send_sequences(&known);
    }

    /// Removes all doors. Stop commands still run when they are due.
    pub(crate) fn close(&mut self) {
        (self.watch_config, self.watcher, self.restart) = (None, None, Restart::new());
        self.doors.clear();
        self.lists.clear();
        self.door_commands.confirm(&self.doors);
    }

    /// Number of doors.
    pub(crate) fn count(&self) -> usize {
        self.doors.len()
    }

    /// The log.
    pub(crate) fn knock_log(&mut self) -> &mut KnockLog {
        &mut self.knock_log
    }

    /// Handles the reports of the watcher.
    pub(crate) fn drain_reports(&mut self) -> Vec<DoorOutcome> {
        let mut outcomes = Vec::new();
        for _ in 0..BATCH {
            let report = match self.watcher.as_mut().map(LegacyWatcher::try_recv) {
                Some(Ok(Some(report))) => report,
                Some(Ok(None)) | None => return outcomes,
                Some(Err(Disconnected)) => {
                    self.on_exit("the watcher exited");
                    return outcomes;
                }
            };
            match report {
                FromLegacyWatcher::Event(event) => self.on_event(&event, &mut outcomes),
                FromLegacyWatcher::Suppressed(number) => {
                    log::warn!("flood: {number} stages and timeouts within a second are not logged");
                }
                FromLegacyWatcher::Alive => {}
                FromLegacyWatcher::Shell(FromShell::Lost(reason)) => self.on_interface_lost(&reason),
                FromLegacyWatcher::Shell(FromShell::Failed(reason)) => self.on_exit(&reason),
                FromLegacyWatcher::Shell(FromShell::Watching | FromShell::Version(_)) => {
                    self.on_exit("the watcher sent an invalid message");
                }
            }
        }
        outcomes
    }

    /// Does what is due for commands, the log, the watcher, and the addresses that the watcher watches.
    pub(crate) fn run_due(&mut self) -> Vec<DoorOutcome> {
        let mut outcomes = Vec::new();
        let events = self.door_commands.run_due();
        self.log(events, &mut outcomes);
        self.knock_log.run_due();
        self.restart_if_due();
        if let (Some(watcher), Some(watch_config)) = (&mut self.watcher, &self.watch_config) {
            watcher.refresh_addresses(watch_config);
        }
        outcomes
    }

    /// Waits up to 1 s for running start commands, because `Cmd_Timeout` starts when they exit. Then writes all log
    /// lines that are pending.
    pub(crate) fn wait_for_commands(&mut self) -> Vec<DoorOutcome> {
        let deadline = clock::steady().plus(SETTLE_MAX);
        let mut outcomes = Vec::new();
        while self.door_commands.is_opening() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            let events = self.door_commands.run_due();
            self.log(events, &mut outcomes);
        }
        self.knock_log.flush();
        outcomes
    }

    fn on_event(&mut self, event: &MatchEvent, outcomes: &mut Vec<DoorOutcome>) {
        let Some(door) = self.doors.get(event.door) else { return };
        self.knock_log.write_event(event.source, &door.name, LogEvent::Step(event.step));
        if event.step == MatchStage::Open && self.use_up(event.door) {
            let Some(door) = self.doors.get(event.door) else { return };
            let (name, opening) = (door.name.clone(), door.opening.clone());
            outcomes.push(DoorOutcome::Opened { door: name, source: event.source, opening });
            let events = self.door_commands.open(door, event.source);
            self.log(events, outcomes);
        }
    }

    /// Marks the one-time sequence that has opened a door as used, if it has one. Returns whether the door may open.
    fn use_up(&mut self, index: usize) -> bool {
        let Some(door) = self.doors.get(index) else { return false };
        let Some(file) = &door.one_time else { return true };
        // No list: the sequences of this door are used up.
        let used = self.lists.remove(&index).and_then(|list| list.used());
        let may_open = used.is_some();
        if let Some(used) = used {
            if let Err(error) = files::replace(file, FileMode::Private, &used) {
                // The door opens, but never again: without the mark the sequence would be valid a second time.
                log::error!("{error}");
                self.knock_log.write(&LogMessage::NotMarked(&door.name));
            } else if let Ok(list) = read_list(file, door) {
                self.lists.insert(index, list);
            } else {
                self.knock_log.write(&LogMessage::NoSequences(&door.name));
            }
        }
        // The watcher waits for the next sequence, also if there is none.
        if let Some(watcher) = &self.watcher {
            watcher.set_sequence(index, self.lists.get(&index).and_then(OneTimeList::current));
        }
        may_open
    }

    /// Sends the current sequences to the watcher, apart from those that it knows: it may have reported an opening that
    /// has not been handled yet, and must not accept the same sequence again.
    fn send_sequences(&self, known: &BTreeMap<usize, OneTimeList>) {
        for (index, list) in &self.lists {
            let is_known = known.get(index).is_some_and(|known| known.current() == list.current());
            if let (false, Some(watcher)) = (is_known, &self.watcher) {
                watcher.set_sequence(*index, list.current());
            }
        }
    }

    fn log(&mut self, events: Vec<CommandEvent>, outcomes: &mut Vec<DoorOutcome>) {
        for event in events {
            match event {
                CommandEvent::Running { door, command } => {
                    self.knock_log.write(&LogMessage::Running(&door, &command));
                }
                CommandEvent::Status { door, status } => {
                    self.knock_log.write(&LogMessage::Status(&door, status))
                }
                CommandEvent::Timeout { source, door } => {
                    self.knock_log.write_event(source, &door, LogEvent::CommandTimeout);
                }
                CommandEvent::Truncated(which) => self.knock_log.write(&LogMessage::Truncated(which)),
                CommandEvent::NotStarted { door, reason } => {
                    log::error!("{door}: {reason}");
                    self.knock_log.write(&LogMessage::ForkFailed);
                }
                CommandEvent::Finished { door, source, event, reason } => {
                    outcomes.push(DoorOutcome::CommandFinished { door, source, event, reason });
                }
            }
        }
    }
}

impl Polled for Doors {
    /// Readable when the watcher reports something or a command or a lookup prints something or exits.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.watcher.as_ref().map(AsFd::as_fd));
        self.door_commands.fds(out);
        self.knock_log.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        let silent = self.watcher.as_ref().map(|watcher| watcher.child().silence_deadline());
        let addresses = self.watcher.as_ref().map(LegacyWatcher::addresses_due);
        let watcher = [self.restart.deadline(), silent, addresses];
        let due = watcher.into_iter().chain([self.door_commands.deadline(), self.knock_log.deadline()]);
        due.flatten().min()
    }
}
