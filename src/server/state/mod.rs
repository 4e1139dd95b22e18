//! The replay memory on disk: no accepted knock acts twice, whatever dies when (`docs/protocol.md`, section 6).
//!
//! `journal` has a record of each acceptance, written before anything happens; the page cache outlives us. `lease`
//! is for what does not outlive: after a power loss nothing that may have been accepted is believed.

mod journal;
mod lease;
mod renewal;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::journal::{Content, Entry, Number, RECORD};
use self::lease::{End, Lease};
use self::renewal::Renewal;
use super::console::{Failure, tell};
use crate::config;
use crate::crypto::random;
use crate::gate::{Acceptance, ReplayMemory};
use crate::knock::Timestamp;
use crate::os::files::{self, FileError, Mode};
use crate::os::{clock, host};

/// The file that a running daemon holds locked.
const LOCK: &str = "lock";
const JOURNAL: &str = "replay.journal";
const LEASE: &str = "replay.lease";

/// How far the lease reaches beyond the window.
const LEASE_AHEAD: Duration = Duration::from_secs(60);
/// It is renewed when it reaches no further beyond the window than this.
const LEASE_MIN: Duration = Duration::from_secs(30);
/// Records that are appended before the journal is written anew: 3 MiB.
const APPENDED_MAX: u64 = 1 << 16;

/// The open state.
pub(super) struct State {
    folder: PathBuf,
    boot: String,
    journal: File,
    number: Number,
    /// Where the end mark stands.
    end: u64,
    /// Records of the journal when it was last written anew.
    written: u64,
    /// What the lease on the disk reaches.
    until: Timestamp,
    renewal: Renewal,
    failing: bool,
}

/// Why there is no state to go on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// A file cannot be read or written.
    #[error("replay state: {0}")]
    File(#[from] FileError),
    /// It is not what was written.
    #[error(
        "replay state {0}: {1}\nhint: spa-knockd state reset (refuses for a while what was knocked of late; nothing is believed twice)"
    )]
    Damaged(String, &'static str),
    /// The system has no random numbers or no boot id.
    #[error("replay state: {0}")]
    System(&'static str),
}

impl State {
    /// Opens the state of `folder` at `now`, and what is remembered.
    ///
    /// # Errors
    /// When it is damaged or cannot be written: without it nothing may be believed.
    pub(super) fn open(
        folder: &Path,
        now: Timestamp,
        window: Duration,
    ) -> Result<(Self, ReplayMemory), StateError> {
        let boot = host::boot_id().ok_or(StateError::System("this system has no boot id"))?;
        let memory = remembered(folder, &boot, now)?;
        Self::begin(folder, boot, &memory, now, window).map(|state| (state, memory))
    }

    /// Raises every floor to at least `now` + `window`: what was accepted stays refused, whatever is damaged.
    /// Returns a warning where the old floors could not be read.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(super) fn reset(
        folder: &Path,
        now: Timestamp,
        window: Duration,
    ) -> Result<Option<&'static str>, StateError> {
        let boot = host::boot_id().ok_or(StateError::System("this system has no boot id"))?;
        let journal = files::read_bytes(&folder.join(JOURNAL)).unwrap_or_default();
        let lease = files::read_text(&folder.join(LEASE)).ok().and_then(|text| Lease::read(&text));
        let (mut memory, told) = match journal::read(&journal) {
            Content::Whole(memory) => (memory, None),
            Content::Torn(memory) if lease.is_some() => (memory, None),
            _ if lease.is_some() => (ReplayMemory::new(Timestamp::default()), None),
            _ => (
                ReplayMemory::new(Timestamp::default()),
                Some(
                    "the old floors could not be read: make new keys for clients whose clocks may have been ahead",
                ),
            ),
        };
        if let Some(lease) = lease {
            memory.raise_floors(lease.until);
        }
        memory.raise_floors(now.plus(window));
        Self::begin(folder, boot, &memory, now, window)?.close()?;
        Ok(told)
    }

    /// Writes both files anew, the journal first: only then does the lease name this boot.
    fn begin(
        folder: &Path,
        boot: String,
        memory: &ReplayMemory,
        now: Timestamp,
        window: Duration,
    ) -> Result<Self, StateError> {
        let number = random().map_err(|_| StateError::System("the system has no random numbers"))?;
        let (journal, end) = write_journal(folder, memory, &number)?;
        let until = memory.highest().max(now.plus(window).plus(LEASE_AHEAD));
        let renewal =
            Renewal::start(folder.join(LEASE)).map_err(|_| StateError::System("no thread can be started"))?;
        let state = Self {
            folder: folder.to_owned(),
            boot,
            journal,
            number,
            end,
            written: end,
            until,
            renewal,
            failing: false,
        };
        state.write_lease(until, End::Open)?;
        Ok(state)
    }

    /// Puts an acceptance on record. Only then may it be acted on.
    ///
    /// # Errors
    /// When it is not on record now; the journal is as it was.
    pub(super) fn record(&mut self, acceptance: &Acceptance) -> Result<(), StateError> {
        if acceptance.timestamp > self.until {
            // The disk is waited for only when a renewal in the background came too late. That one first, or it could
            // still overwrite what is written here.
            self.renewal.settle();
            let until = acceptance.timestamp.plus(LEASE_AHEAD);
            self.write_lease(until, End::Open)?;
            self.until = until;
        }
        let next = self.end.saturating_add(1);
        let bytes = [
            journal::record(Entry::Accepted(*acceptance), &self.number, self.end),
            journal::record(Entry::End, &self.number, next),
        ]
        .concat();
        if let Err(error) = self.journal.write_all_at(&bytes, offset(self.end)) {
            self.mend_end();
            return Err(self.error(&error));
        }
        self.end = next;
        Ok(())
    }

    /// Work that no knock should wait for: the lease is renewed in the background, a long journal written anew.
    pub(super) fn tend(&mut self, memory: &ReplayMemory, now: Timestamp, window: Duration) {
        for outcome in self.renewal.finished() {
            match outcome {
                Ok(until) => {
                    self.until = until;
                    self.failing = false;
                }
                Err(reason) if !self.failing => {
                    self.failing = true;
                    log::error!("replay state: the lease could not be renewed: {reason}");
                }
                Err(_) => {}
            }
        }
        if self.until < now.plus(window).plus(LEASE_MIN) {
            let until = memory.highest().max(now.plus(window).plus(LEASE_AHEAD));
            self.renewal.ask(until, self.lease(until, End::Open).to_text());
        }
        if self.end.saturating_sub(self.written) > APPENDED_MAX
            && let Err(error) = self.rewrite(memory)
            && !self.failing
        {
            self.failing = true;
            log::error!("{error}");
        }
    }

    /// Readable when a renewal has ended.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.renewal.descriptor()
    }

    /// A clean end: the journal is on the disk before the lease says so.
    ///
    /// # Errors
    /// When that cannot be had; the next start then goes by the boot id.
    pub(super) fn close(mut self) -> Result<(), StateError> {
        self.renewal.stop();
        self.journal.sync_all().map_err(|error| self.error(&error))?;
        self.write_lease(self.until, End::Clean)
    }

    fn rewrite(&mut self, memory: &ReplayMemory) -> Result<(), StateError> {
        let number = random().map_err(|_| StateError::System("the system has no random numbers"))?;
        let (journal, end) = write_journal(&self.folder, memory, &number)?;
        (self.journal, self.number, self.end, self.written) = (journal, number, end, end);
        Ok(())
    }

    fn write_lease(&self, until: Timestamp, end: End) -> Result<(), StateError> {
        Ok(files::replace(
            &self.folder.join(LEASE),
            Mode::Private,
            self.lease(until, end).to_text().as_bytes(),
        )?)
    }

    fn lease(&self, until: Timestamp, end: End) -> Lease {
        Lease { boot: self.boot.clone(), until, end }
    }

    /// After a write that was cut short: the end mark back to where it was.
    fn mend_end(&self) {
        let mark = journal::record(Entry::End, &self.number, self.end);
        // If this fails too, the next start finds a torn end, which it takes for one.
        let _ = self.journal.write_all_at(&mark, offset(self.end));
        let _ = self.journal.set_len(offset(self.end.saturating_add(1)));
    }

    fn error(&self, error: &std::io::Error) -> StateError {
        StateError::File(FileError::io(&self.folder.join(JOURNAL), error))
    }
}

/// Makes the state folder, if it is missing, and takes it for as long as the returned handle lives.
///
/// # Errors
/// When a daemon uses it, or it cannot be made.
pub(super) fn lock(folder: &Path) -> Result<File, Failure> {
    files::create_folder(folder, Mode::Private)?;
    files::lock(&folder.join(LOCK))?.ok_or_else(|| {
        Failure::run(format_args!(
            "state folder {}: another spa-knockd uses it\nhint: stop it first",
            folder.display()
        ))
    })
}

/// `spa-knockd state reset`.
///
/// # Errors
/// When a daemon uses the state, or it cannot be written.
pub(super) fn reset(config: &Path) -> Result<(), Failure> {
    let config = config::load(config)?;
    let folder = &config.state_dir;
    let _lock = lock(folder)?;
    let until = clock::wall().plus(config.window);
    if let Some(warning) = State::reset(folder, clock::wall(), config.window).map_err(Failure::run)? {
        tell(format_args!("warning: {warning}"));
    }
    tell(format_args!("replay state: reset; knocks are believed that are stamped after {}", told(until)));
    Ok(())
}

/// Whether a daemon could start with the state of `folder`. Changes nothing.
///
/// # Errors
/// When it could not.
pub(super) fn examine(folder: &Path) -> Result<(), StateError> {
    let boot = host::boot_id().ok_or(StateError::System("this system has no boot id"))?;
    remembered(folder, &boot, clock::wall()).map(|_| ())
}

/// What the files of `folder` say is to be refused.
fn remembered(folder: &Path, boot: &str, now: Timestamp) -> Result<ReplayMemory, StateError> {
    let (journal_path, lease_path) = (folder.join(JOURNAL), folder.join(LEASE));
    let damaged = |path: &Path, why| StateError::Damaged(path.display().to_string(), why);
    let journal = if files::exists(&journal_path) { Some(files::read_bytes(&journal_path)?) } else { None };
    let content = journal.as_deref().map(journal::read);
    let lease = if files::exists(&lease_path) { Some(files::read_text(&lease_path)?) } else { None };
    let (content, lease) = match (content, lease) {
        (None | Some(Content::Empty), None) => return Ok(ReplayMemory::new(now)),
        (Some(_), None) => return Err(damaged(&lease_path, "missing beside a journal")),
        (None, Some(_)) => return Err(damaged(&journal_path, "missing beside a lease")),
        (Some(content), Some(lease)) => (content, lease),
    };
    let lease = Lease::read(&lease).ok_or_else(|| damaged(&lease_path, "not as it was written"))?;
    if lease.boot != boot && lease.end == End::Open {
        log::warn!(
            "replay state: power was lost; knocks are believed again that are stamped after {}",
            told(lease.until)
        );
        return Ok(ReplayMemory::new(lease.until));
    }
    match content {
        Content::Whole(memory) => Ok(memory),
        Content::Torn(mut memory) => {
            log::warn!(
                "replay state: the last write was cut short; knocks are believed again that are stamped after {}",
                told(lease.until)
            );
            memory.raise_floors(lease.until);
            Ok(memory)
        }
        Content::Empty | Content::Damaged => Err(damaged(&journal_path, "not as it was written")),
    }
}

fn write_journal(folder: &Path, memory: &ReplayMemory, number: &Number) -> Result<(File, u64), StateError> {
    let path = folder.join(JOURNAL);
    let (bytes, end) = journal::whole(memory, number);
    files::replace(&path, Mode::Private, &bytes)?;
    Ok((files::open_to_write(&path)?, end))
}

fn offset(place: u64) -> u64 {
    u64::try_from(RECORD).unwrap_or(u64::MAX).saturating_mul(place)
}

fn told(time: Timestamp) -> String {
    clock::rfc3339(time)
}
