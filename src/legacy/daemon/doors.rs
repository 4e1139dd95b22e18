//! The doors of a knockd.conf at work: what the watcher sees is logged, and what it means is run. The loop around them
//! is another's: the legacy daemon's, or the one of sealed knocks.

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

/// How often the host's addresses are looked at.
const TICK: Duration = Duration::from_secs(10);
/// Reports taken before the rest of the loop has its turn.
const BATCH: usize = 256;
/// How long a daemon that stops waits for start commands.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// The doors, their watcher, their log and their commands.
pub(crate) struct Doors {
    program: Rc<Result<Program, FileError>>,
    doors: Vec<Door>,
    /// Doors with one-time sequences that are not in here any more are closed for good.
    lists: BTreeMap<usize, OneTimeList>,
    /// None = nothing is watched; what is open is still closed.
    watch_config: Option<LegacyWatchConfig>,
    watcher: Option<LegacyWatcher>,
    restart: Restart,
    addresses_due: Steady,
    knock_log: KnockLog,
    door_commands: DoorCommands,
}

/// Other doors, and a watcher that watches them.
pub(crate) struct NextDoors {
    watch_config: LegacyWatchConfig,
    /// None = the one that there is goes on.
    watcher: Option<LegacyWatcher>,
    doors: Vec<Door>,
    lists: BTreeMap<usize, OneTimeList>,
}

/// What the daemon around is to do or may note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DoorOutcome {
    /// A door has opened for this source, and its command runs, if it has one.
    Opened {
        /// Its name.
        door: String,
        /// Who knocked, or who was made up.
        source: IpAddr,
        /// What is still to be opened.
        opening: Option<GrantSpec>,
    },
    /// A command of a door is over.
    CommandFinished {
        /// Its name.
        door: String,
        /// For whom it ran.
        source: IpAddr,
        /// How it ended.
        event: KnockResult,
        /// Why not well.
        reason: Option<Explanation>,
    },
}

impl Doors {
    /// No doors yet, but what an earlier daemon left to be closed in the state folder `folder`, if there is one.
    ///
    /// # Errors
    /// When that cannot be read.
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
            addresses_due: clock::steady().plus(TICK),
            knock_log,
            door_commands: DoorCommands::new(undo_queue, client),
        })
    }

    /// Starts a watcher for these doors. The present one, its attempts included, goes on where it watches the same.
    ///
    /// # Errors
    /// Why it does not watch, for people; nothing has changed then.
    pub(crate) fn prepare(
        &self,
        written: KnockdConfig,
        watch_config: LegacyWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<NextDoors, String> {
        // One that has lost an interface is tried for anyway: what is missing must not keep a reload from the rest.
        let watcher = match self.watch_config.as_ref() == Some(&watch_config) {
            true => None,
            false => Some(self.start_watcher(&watch_config, missing)?),
        };
        Ok(NextDoors { watch_config, watcher, doors: written.doors, lists: written.lists })
    }

    /// The same where no interface is there yet: it is tried again until one is.
    pub(crate) fn prepare_without_interfaces(
        &mut self,
        written: KnockdConfig,
        watch_config: LegacyWatchConfig,
    ) -> NextDoors {
        log::error!("plain sequences: no interface is there yet; looking for one");
        self.restart.look_later();
        NextDoors { watch_config, watcher: None, doors: written.doors, lists: written.lists }
    }

    /// From now on these are the doors.
    pub(crate) fn activate(&mut self, coming: NextDoors) {
        let NextDoors { watch_config, watcher, doors, lists } = coming;
        (self.watch_config, self.doors, self.lists) = (Some(watch_config), doors, lists);
        if let Some(watcher) = watcher {
            self.watcher = Some(watcher);
            self.restart = Restart::new();
        }
        self.door_commands.confirm(&self.doors);
        self.send_sequences();
    }

    /// There are no doors any more. What is open is closed in its time.
    pub(crate) fn close(&mut self) {
        (self.watch_config, self.watcher, self.restart) = (None, None, Restart::new());
        self.doors.clear();
        self.lists.clear();
        self.door_commands.confirm(&self.doors);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.doors.len()
    }

    /// What lines are written to.
    pub(crate) fn knock_log(&mut self) -> &mut KnockLog {
        &mut self.knock_log
    }

    /// Takes what the watcher reports.
    pub(crate) fn drain_reports(&mut self) -> Vec<DoorOutcome> {
        let mut outcomes = Vec::new();
        for _ in 0..BATCH {
            let report = match self.watcher.as_mut().map(LegacyWatcher::try_recv) {
                Some(Ok(Some(report))) => report,
                Some(Ok(None)) | None => return outcomes,
                Some(Err(Disconnected)) => {
                    self.on_exit("the watcher ended");
                    return outcomes;
                }
            };
            match report {
                FromLegacyWatcher::Event(event) => self.on_event(&event, &mut outcomes),
                FromLegacyWatcher::Suppressed(number) => {
                    log::warn!("a flood: {number} stages and timeouts of a second are not logged");
                }
                FromLegacyWatcher::Alive => {}
                FromLegacyWatcher::Shell(FromShell::Lost(reason)) => self.on_interface_lost(&reason),
                FromLegacyWatcher::Shell(FromShell::Failed(reason)) => self.on_exit(&reason),
                FromLegacyWatcher::Shell(FromShell::Watching | FromShell::Version(_)) => {
                    self.on_exit("the watcher talks nonsense");
                }
            }
        }
        outcomes
    }

    /// Looks after commands, the log, the watcher, and the addresses that are knocked at.
    pub(crate) fn run_due(&mut self) -> Vec<DoorOutcome> {
        let mut outcomes = Vec::new();
        let told = self.door_commands.run_due();
        self.log(told, &mut outcomes);
        self.knock_log.run_due();
        self.restart_if_due();
        let now = clock::steady();
        if now >= self.addresses_due {
            self.addresses_due = now.plus(TICK);
            if let (Some(watcher), Some(watch_config)) = (&mut self.watcher, &self.watch_config) {
                watcher.send_addresses(watch_config);
            }
        }
        outcomes
    }

    /// Waits a moment for commands that open: once they have ended it is known when to close. Nothing is left that
    /// waits to be logged.
    pub(crate) fn wait_for_commands(&mut self) -> Vec<DoorOutcome> {
        let deadline = clock::steady().plus(SETTLE_MAX);
        let mut outcomes = Vec::new();
        while self.door_commands.is_opening() && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            let told = self.door_commands.run_due();
            self.log(told, &mut outcomes);
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
            let told = self.door_commands.open(door, event.source);
            self.log(told, outcomes);
        }
    }

    /// Marks the sequence that has opened a door, if it was good once; whether the door may open.
    fn use_up(&mut self, place: usize) -> bool {
        let Some(door) = self.doors.get(place) else { return false };
        let Some(file) = &door.one_time else { return true };
        // A list that is not there any more has nothing that could open.
        let Some(used) = self.lists.remove(&place).and_then(|list| list.used()) else { return false };
        if let Err(error) = files::replace(file, FileMode::Private, &used) {
            // It opens, but never again: what is not marked would be good a second time.
            log::error!("{error}");
            self.knock_log.write(&LogMessage::NotMarked(&door.name));
            return true;
        }
        match read_list(file, door) {
            Ok(list) => {
                if let Some(watcher) = &self.watcher {
                    watcher.renew(place, list.current());
                }
                self.lists.insert(place, list);
            }
            Err(_) => self.knock_log.write(&LogMessage::NoSequences(&door.name)),
        }
        true
    }

    fn send_sequences(&self) {
        for (place, list) in &self.lists {
            if let Some(watcher) = &self.watcher {
                watcher.renew(*place, list.current());
            }
        }
    }

    fn log(&mut self, told: Vec<CommandEvent>, outcomes: &mut Vec<DoorOutcome>) {
        for told in told {
            match told {
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
    /// Readable when there is something to hear, or a command or a look-up says something.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.watcher.as_ref().map(AsFd::as_fd));
        self.door_commands.fds(out);
        self.knock_log.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        let silent = self.watcher.as_ref().map(|watcher| watcher.child().silence_deadline());
        let due = [self.restart.deadline(), silent, self.door_commands.deadline(), self.knock_log.deadline()];
        due.into_iter().flatten().min()
    }
}
