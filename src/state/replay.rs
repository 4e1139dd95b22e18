//! The replay memory on disk: no accepted knock acts twice, whatever fails (`docs/internals/protocol.md`, section 6).
//!
//! The journal has a record of each acceptance, written before the action. The page cache survives a crash of the
//! daemon, but not a power loss: then the lease makes the daemon refuse everything that can have been accepted.

mod restore;
mod sync;

use std::time::Duration;

use super::disk::Disk;
use super::error::StateError;
use super::journal_file::JournalFile;
use super::lease::{Lease, LeaseLimit};
use super::otp_pauses::OtpPauses;
use super::{otp_pauses, uses};
use crate::os::worker::Worker;
use spa_knock_core::auth::{Acceptance, ReplayMemory, UseCounts};
use spa_knock_core::knock::{Now, Steady, Timestamp};
use sync::{FinishedSyncs, Renewal, StatePart, SyncJob};

pub(super) use restore::{Floors, Reset, ahead, floor_ahead, remembered};

const LEASE: &str = "replay.lease";

/// How far the lease extends beyond the window.
const LEASE_AHEAD: Duration = Duration::from_secs(60);
/// Disk space in bytes reserved for the next version of a small file.
const RESERVE: u64 = 4096;

/// The open replay state.
pub(crate) struct ReplayState<D: Disk> {
    disk: D,
    boot: String,
    journal: JournalFile<D::File>,
    /// The lease on disk covers at least this timestamp.
    until: Timestamp,
    renewal: Renewal,
    /// A timestamp beyond the lease for which a knock waits.
    wanted: Timestamp,
    /// When `run_due` was last called.
    upkept: Steady,
    worker: Worker<SyncJob<D::File>>,
    /// The use counts on disk.
    uses: UseCounts,
    /// The pauses on disk or being written.
    otp_pauses: OtpPauses,
    /// Results that `ended` has not returned yet.
    ended: FinishedSyncs,
    /// Parts whose failure has been logged and that have not worked since.
    failing: Vec<StatePart>,
}

impl<D: Disk> ReplayState<D> {
    /// Opens the state on `disk` in boot `boot` and restores the replay memory.
    ///
    /// # Errors
    /// If it is damaged or cannot be written. Without it no knock can be accepted.
    pub(crate) fn open(
        disk: D,
        boot: String,
        now: Now,
        window: Duration,
    ) -> Result<(Self, ReplayMemory), StateError> {
        let memory = remembered(&disk, &boot, now.wall)?;
        if let Some(floor) = floor_ahead(&memory, now.wall, window) {
            log::warn!("{}", ahead(floor));
        }
        let uses = uses::remembered(&disk)?;
        let otp_pauses = otp_pauses::remembered(&disk)?;
        uses::reserve(&disk);
        Self::initialize(disk, boot, &memory, now, window)
            .map(|state| (Self { uses, otp_pauses, ..state }, memory))
    }

    /// Rewrites both files, the journal first: the lease must not name this boot before the journal is on disk.
    fn initialize(
        disk: D,
        boot: String,
        memory: &ReplayMemory,
        now: Now,
        window: Duration,
    ) -> Result<Self, StateError> {
        let journal = JournalFile::write(&disk, memory)?;
        let until = lease_wanted(memory, now.wall, window);
        let worker = Worker::start().map_err(|_| StateError::System("no thread can be started"))?;
        let state = Self {
            disk,
            boot,
            journal,
            until,
            renewal: Renewal::From { usual: now.steady, urgent: now.steady },
            wanted: Timestamp::default(),
            upkept: now.steady,
            worker,
            uses: UseCounts::default(),
            otp_pauses: OtpPauses::new(),
            ended: FinishedSyncs::default(),
            failing: Vec::new(),
        };
        state.write_lease(until, LeaseLimit::Open)?;
        // Without the reserve, knocks are refused when the disk is full, which is then logged.
        let _ = state.disk.reserve(LEASE, RESERVE);
        Ok(state)
    }

    /// Whether the lease covers this timestamp. If not, requests a lease that does, and [`Self::ended`] reports when it
    /// is written.
    pub(crate) fn reaches(&mut self, timestamp: Timestamp) -> bool {
        let reaches = timestamp <= self.until;
        if !reaches {
            self.wanted = self.wanted.max(timestamp);
        }
        reaches
    }

    /// Writes an acceptance to the journal. The knock must not act before.
    ///
    /// # Errors
    /// If it is not recorded; the journal is then unchanged.
    pub(crate) fn record(&mut self, acceptance: &Acceptance) -> Result<(), StateError> {
        if acceptance.timestamp > self.until {
            return Err(StateError::Lease);
        }
        let appended = self.journal.append(&self.disk, acceptance);
        self.warn_once(StatePart::Record, &appended);
        appended
    }

    /// The use counts on disk.
    pub(crate) const fn uses(&self) -> &UseCounts {
        &self.uses
    }

    /// The pauses after wrong one-time passwords.
    pub(crate) const fn otp_pauses(&self) -> &OtpPauses {
        &self.otp_pauses
    }

    /// Closes the state cleanly: syncs the journal, then marks the lease as clean.
    ///
    /// # Errors
    /// If one of them cannot be written. The next start then relies on the boot id.
    pub(crate) fn close(mut self) -> Result<(), StateError> {
        self.settle();
        self.disk.sync(self.journal.file())?;
        self.disk.sync_names()?;
        self.write_lease(self.until, LeaseLimit::Clean)
    }

    fn write_lease(&self, until: Timestamp, end: LeaseLimit) -> Result<(), StateError> {
        self.disk.replace(LEASE, self.lease(until, end).to_text().as_bytes())?;
        Ok(())
    }

    fn lease(&self, until: Timestamp, end: LeaseLimit) -> Lease {
        Lease { boot: self.boot.clone(), until, end }
    }
}

/// The timestamp that the lease should cover.
fn lease_wanted(memory: &ReplayMemory, now: Timestamp, window: Duration) -> Timestamp {
    memory.highest().max(now.plus(window).plus(LEASE_AHEAD))
}
