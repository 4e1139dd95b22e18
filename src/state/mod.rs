//! The state directory: the replay memory, use counts and undo tasks, which must survive the daemon. Only one daemon
//! uses the directory at a time.

pub(crate) mod last_good;
mod undo;
mod undo_file;

mod disk;
mod error;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod journal;
mod journal_file;
mod lease;
mod otp_pauses;
mod replay;
mod uses;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, ServerConfig};
use crate::console::{AdminError, notice};
use crate::os::files::{self, FileError, FileMode};
use crate::os::{clock, host};
use disk::Folder;
use replay::Floors;
use spa_knock_core::auth::{ReplayMemory, UseCounts};
use spa_knock_core::knock::{ClientName, Timestamp};

pub(crate) use error::StateError;
pub(crate) use replay::ReplayState;
#[cfg(feature = "legacy")]
pub(crate) use undo::UndoError;
pub(crate) use undo::{Due, Leftover, ScheduledUndo, StartedUndo, UndoQueue, UndoTask};
pub(crate) use undo_file::FileWork;

/// The replay state in the state directory.
pub(crate) type ReplayFolder = ReplayState<Folder>;

/// The file that a running daemon keeps locked.
const LOCK: &str = "lock";

/// Opens the replay state of a config and restores the replay memory.
///
/// # Errors
/// If it is damaged or cannot be written. Without it no knock can be accepted.
pub(crate) fn open(config: &ServerConfig) -> Result<(ReplayFolder, ReplayMemory), StateError> {
    ReplayFolder::open(Folder::new(&config.state_dir), boot_id()?, clock::now(), config.window)
}

/// Opens the replay state of another protocol, in a directory of its own. At the first start, messages made within the
/// last `window` are accepted: their timestamps are whole seconds, and their senders' clocks may be behind. The lease
/// reaches `ahead`.
///
/// # Errors
/// As [`open`].
#[cfg(feature = "fwknop")]
pub(crate) fn open_in(
    folder: &Path,
    window: Duration,
    ahead: Duration,
) -> Result<(ReplayFolder, ReplayMemory), StateError> {
    let now = clock::now();
    let mut since = now;
    if !has_run(folder) {
        since.wall = now.wall.minus(window).minus(Duration::from_secs(1));
    }
    let (mut state, memory) = ReplayFolder::open(Folder::new(folder), boot_id()?, since, ahead)?;
    // The lease reaches from now, not from the time since which messages are accepted.
    state.run_due(&memory, now, ahead);
    state.settle();
    Ok((state, memory))
}

/// Replaces the replay state of another protocol, whatever is damaged: accepted messages remain refused. Returns the time
/// after which messages must have been made to be accepted.
///
/// # Errors
/// If it cannot be written.
#[cfg(feature = "fwknop")]
pub(crate) fn reset_in(folder: &Path, window: Duration, forget: bool) -> Result<Timestamp, StateError> {
    let floors = if forget { Floors::Forget } else { Floors::Keep };
    let reset = ReplayFolder::reset(Folder::new(folder), boot_id()?, clock::now(), window, floors)?;
    Ok(reset.floor)
}

/// Opens the undo queue. Also returns tasks of an earlier daemon that cannot run anymore.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn open_undo_queue(config: &ServerConfig) -> Result<(UndoQueue, Vec<Leftover>), StateError> {
    open_undo_queue_in(&config.state_dir)
}

/// Opens the undo queue in the given directory.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn open_undo_queue_in(folder: &Path) -> Result<(UndoQueue, Vec<Leftover>), StateError> {
    Ok(UndoQueue::open(folder, boot_id()?)?)
}

/// Creates the state directory if it is missing, and locks it until the returned handle is dropped.
///
/// # Errors
/// If a daemon uses it, or it cannot be created.
pub(crate) fn lock(folder: &Path) -> Result<File, AdminError> {
    try_lock(folder)?.ok_or_else(|| in_use(folder))
}

/// The error for a state directory that another daemon uses.
pub(crate) fn in_use(folder: &Path) -> AdminError {
    AdminError::run(format_args!(
        "state directory {}: in use by another spa-knockd\nhint: stop it first",
        folder.display()
    ))
}

/// Whether a daemon has run with this state directory.
pub(crate) fn has_run(folder: &Path) -> bool {
    files::exists(&Path::new(folder).join(journal_file::JOURNAL))
}

/// Creates and locks the state directory; none if a daemon uses it.
///
/// # Errors
/// If it cannot be created or locked.
pub(crate) fn try_lock(folder: &Path) -> Result<Option<File>, FileError> {
    create(folder)?;
    files::lock(&folder.join(LOCK))
}

/// Creates the state directory if it is missing.
///
/// # Errors
/// If it cannot be created.
pub(crate) fn create(folder: &Path) -> Result<(), FileError> {
    files::create_folder(folder, FileMode::Private)
}

/// Whether a daemon uses the state directory.
pub(crate) fn is_locked(folder: &Path) -> bool {
    let lock = folder.join(LOCK);
    files::exists(&lock) && matches!(files::lock(&lock), Ok(None))
}

/// `spa-knockd state reset`.
///
/// # Errors
/// If a daemon uses the state directory, or it cannot be written.
pub(crate) fn reset(config: &Path, forget: bool) -> Result<(), AdminError> {
    let config = config::load(config)?;
    let _lock = lock(&config.state_dir)?;
    let boot = boot_id().map_err(AdminError::run)?;
    let floors = if forget { Floors::Forget } else { Floors::Keep };
    let reset =
        ReplayFolder::reset(Folder::new(&config.state_dir), boot, clock::now(), config.window, floors);
    reset.map_err(AdminError::run)?.notices(floors).iter().for_each(notice);
    Ok(())
}

/// Raises every floor past the window, so that no knock that another host has accepted is accepted here. Returns the
/// highest floor.
///
/// # Errors
/// If a daemon uses the state directory, or it cannot be read or written.
pub(crate) fn take_over(config: &ServerConfig) -> Result<Timestamp, AdminError> {
    let _lock = lock(&config.state_dir)?;
    let (mut state, mut memory) = open(config).map_err(AdminError::run)?;
    let now = clock::now();
    memory.raise_floors(now.wall.plus(config.window));
    state.persist(&memory, now, config.window).and_then(|()| state.close()).map_err(AdminError::run)?;
    Ok(memory.highest_floor())
}

/// The use counts on disk. A running daemon writes them before each action.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub(crate) fn uses(folder: &Path) -> Result<UseCounts, StateError> {
    uses::remembered(&Folder::new(folder))
}

/// Deletes a client's use count, unless a daemon is running, which does so itself.
///
/// # Errors
/// If the file cannot be read or written.
pub(crate) fn forget_uses(folder: &Path, client: &ClientName) -> Result<(), StateError> {
    let disk = Folder::new(folder);
    let mut counts = uses::remembered(&disk)?;
    if counts.of(client) == 0 {
        return Ok(());
    }
    let Some(_lock) = files::lock(&folder.join(LOCK))? else { return Ok(()) };
    counts.forget(client);
    uses::record(&disk, &counts)
}

/// Problems of a state directory with which a daemon could nevertheless start.
pub(crate) struct Findings {
    /// Files of undo tasks that are damaged.
    pub(crate) damaged: Vec<PathBuf>,
    /// The warning about a floor that is ahead of the clock.
    pub(crate) ahead: Option<String>,
}

/// Checks whether a daemon could start with the state in `folder`. Changes nothing.
///
/// # Errors
/// If it could not.
pub(crate) fn examine(folder: &Path, window: Duration) -> Result<Findings, StateError> {
    let now = clock::wall();
    let memory = replay::remembered(&Folder::new(folder), &boot_id()?, now)?;
    uses(folder)?;
    let ahead = replay::floor_ahead(&memory, now, window).map(replay::ahead);
    Ok(Findings { damaged: undo_file::damaged(folder)?, ahead })
}

/// The undo tasks in `folder` with their files. Changes nothing.
///
/// # Errors
/// If the directory cannot be read.
pub(crate) fn waiting_undo_tasks(folder: &Path) -> Result<Vec<(PathBuf, UndoTask)>, StateError> {
    Ok(undo_file::listed(folder)?)
}

fn boot_id() -> Result<String, StateError> {
    host::boot_id().ok_or(StateError::System("this system has no boot id"))
}

#[cfg(test)]
mod tests;
