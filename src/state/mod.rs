//! What must outlive the daemon: the replay memory and what is still to be undone, in a folder that one daemon holds.

pub(crate) mod last_good;
mod undo;
mod undo_file;

mod disk;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod journal;
mod journal_file;
mod lease;
mod otp_pauses;
mod replay;
#[cfg(test)]
mod tests;
mod uses;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, ServerConfig};
use crate::console::{AdminError, notice};
use crate::os::files::{self, FileError, FileMode};
use crate::os::{clock, host};
use disk::Folder;
use replay::{Floors, Reset};
use spa_knock_core::auth::{ReplayMemory, UseCounts};
use spa_knock_core::knock::ClientName;

pub(crate) use error::StateError;
pub(crate) use replay::ReplayState;
#[cfg(feature = "legacy")]
pub(crate) use undo::UndoError;
pub(crate) use undo::{Due, Leftover, ScheduledUndo, StartedUndo, UndoQueue, UndoTask};
pub(crate) use undo_file::FileWork;

/// The replay state in the state folder.
pub(crate) type ReplayFolder = ReplayState<Folder>;

/// The file that a running daemon holds locked.
const LOCK: &str = "lock";

/// Opens the replay state that a config names, and what is remembered.
///
/// # Errors
/// When it is damaged or cannot be written: without it nothing may be believed.
pub(crate) fn open(config: &ServerConfig) -> Result<(ReplayFolder, ReplayMemory), StateError> {
    ReplayFolder::open(Folder::new(&config.state_dir), boot_id()?, clock::now(), config.window)
}

/// Opens what is still to be undone, and what cannot be any more.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn open_undo_queue(config: &ServerConfig) -> Result<(UndoQueue, Vec<Leftover>), StateError> {
    open_undo_queue_in(&config.state_dir)
}

/// The same, in a folder that no config names.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn open_undo_queue_in(folder: &Path) -> Result<(UndoQueue, Vec<Leftover>), StateError> {
    Ok(UndoQueue::open(folder, boot_id()?)?)
}

/// Makes the state folder, if it is missing, and takes it for as long as the returned handle lives.
///
/// # Errors
/// When a daemon uses it, or it cannot be made.
pub(crate) fn lock(folder: &Path) -> Result<File, AdminError> {
    try_lock(folder)?.ok_or_else(|| in_use(folder))
}

/// What there is to say of a folder that a daemon uses.
pub(crate) fn in_use(folder: &Path) -> AdminError {
    AdminError::run(format_args!(
        "state folder {}: another spa-knockd uses it\nhint: stop it first",
        folder.display()
    ))
}

/// Whether a daemon has kept its state in this folder.
pub(crate) fn has_run(folder: &Path) -> bool {
    files::exists(&Path::new(folder).join(journal_file::JOURNAL))
}

/// The same; nothing when a daemon uses it.
///
/// # Errors
/// When it cannot be made or locked.
pub(crate) fn try_lock(folder: &Path) -> Result<Option<File>, FileError> {
    create(folder)?;
    files::lock(&folder.join(LOCK))
}

/// Makes the state folder, if it is missing.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn create(folder: &Path) -> Result<(), FileError> {
    files::create_folder(folder, FileMode::Private)
}

/// Whether a daemon uses the state folder.
pub(crate) fn is_locked(folder: &Path) -> bool {
    let lock = folder.join(LOCK);
    files::exists(&lock) && matches!(files::lock(&lock), Ok(None))
}

/// `spa-knockd state reset`.
///
/// # Errors
/// When a daemon uses the state, or it cannot be written.
pub(crate) fn reset(config: &Path, forget: bool) -> Result<(), AdminError> {
    let config = config::load(config)?;
    let _lock = lock(&config.state_dir)?;
    let boot = boot_id().map_err(AdminError::run)?;
    let floors = if forget { Floors::Forget } else { Floors::Keep };
    let reset =
        ReplayFolder::reset(Folder::new(&config.state_dir), boot, clock::now(), config.window, floors);
    let Reset { floor, is_ahead, lost } = reset.map_err(AdminError::run)?;
    if forget {
        notice(
            "warning: the old floors are gone: a knock that was accepted while the clock was ahead can be accepted again\n\
             hint: make new keys for clients that knocked in that time",
        );
    } else if lost {
        notice(
            "warning: the old floors could not be read: make new keys for clients whose clocks may have been ahead",
        );
    }
    notice(format_args!(
        "replay state: reset; knocks are accepted that are stamped after {}",
        clock::rfc3339(floor)
    ));
    if is_ahead {
        notice(
            "warning: that is further ahead than the window: the clock was ahead when the state was written\n\
             hint: if the clock is right now, spa-knockd state reset --forget accepts knocks again after the window",
        );
    }
    Ok(())
}

/// How often clients have acted, as it is on record now; a running daemon puts it there before each act.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn uses(folder: &Path) -> Result<UseCounts, StateError> {
    uses::remembered(&Folder::new(folder))
}

/// Forgets how often a client has acted, unless a daemon runs: that one does so itself.
///
/// # Errors
/// When it cannot be written.
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

/// What is wrong with the state of a daemon that could start with it.
pub(crate) struct Findings {
    /// The files that say what to undo but cannot be read.
    pub(crate) damaged: Vec<PathBuf>,
    /// What there is to report of a floor that is ahead of the clock.
    pub(crate) ahead: Option<String>,
}

/// Whether a daemon could start with the state of `folder`. Changes nothing.
///
/// # Errors
/// When it could not.
pub(crate) fn examine(folder: &Path, window: Duration) -> Result<Findings, StateError> {
    let now = clock::wall();
    let memory = replay::remembered(&Folder::new(folder), &boot_id()?, now)?;
    uses(folder)?;
    let ahead = replay::floor_ahead(&memory, now, window).map(replay::ahead);
    Ok(Findings { damaged: undo_file::damaged(folder)?, ahead })
}

/// What waits to be undone in the state of `folder`, with its files. Changes nothing.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn waiting_undo_tasks(folder: &Path) -> Result<Vec<(PathBuf, UndoTask)>, StateError> {
    Ok(undo_file::listed(folder)?)
}

fn boot_id() -> Result<String, StateError> {
    host::boot_id().ok_or(StateError::System("this system has no boot id"))
}
