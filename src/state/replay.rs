//! The replay memory on disk: no accepted knock acts twice, whatever dies when (`docs/protocol.md`, section 6).
//!
//! `journal` has a record of each acceptance, written before anything happens; the page cache outlives us. `lease`
//! is for what does not outlive: after a power loss nothing that may have been accepted is believed.

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

/// How far the lease reaches beyond the window.
const LEASE_AHEAD: Duration = Duration::from_secs(60);
/// Bytes kept for the next version of a small file.
const RESERVE: u64 = 4096;

/// The open state.
pub(crate) struct ReplayState<D: Disk> {
    disk: D,
    boot: String,
    journal: JournalFile<D::File>,
    /// What the lease on the disk reaches at least.
    until: Timestamp,
    renewal: Renewal,
    /// A timestamp beyond the lease that a knock waits for.
    wanted: Timestamp,
    /// When this was last tended.
    upkept: Steady,
    worker: Worker<SyncJob<D::File>>,
    /// What the disk knows of them.
    uses: UseCounts,
    /// What the disk knows of these, or will in a moment.
    otp_pauses: OtpPauses,
    /// Reported once by `ended`.
    ended: FinishedSyncs,
    /// What has been told to fail and not yet to work again.
    failing: Vec<StatePart>,
}

impl<D: Disk> ReplayState<D> {
    /// Opens the state on `disk` in the boot `boot`, and what is remembered.
    ///
    /// # Errors
    /// When it is damaged or cannot be written: without it nothing may be believed.
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

    /// Writes both files again, the journal first: only then does the lease name this boot.
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
            renewal: Renewal::From { usual: now.steady, hasty: now.steady },
            wanted: Timestamp::default(),
            upkept: now.steady,
            worker,
            uses: UseCounts::default(),
            otp_pauses: OtpPauses::new(),
            ended: FinishedSyncs::default(),
            failing: Vec::new(),
        };
        state.write_lease(until, LeaseLimit::Open)?;
        // Without it, a disk that is full later keeps knocks out, which is then in the log.
        let _ = state.disk.reserve(LEASE, RESERVE);
        Ok(state)
    }

    /// Whether a knock of this time can be put on record now. If not, a lease that reaches it is asked for, and
    /// [`Self::ended`] reports when it is there.
    pub(crate) fn reaches(&mut self, timestamp: Timestamp) -> bool {
        let reaches = timestamp <= self.until;
        if !reaches {
            self.wanted = self.wanted.max(timestamp);
        }
        reaches
    }

    /// Puts an acceptance on record. Only then may it be acted on.
    ///
    /// # Errors
    /// When it is not on record now; the journal is as it was.
    pub(crate) fn record(&mut self, acceptance: &Acceptance) -> Result<(), StateError> {
        if acceptance.timestamp > self.until {
            return Err(StateError::Lease);
        }
        let appended = self.journal.append(&self.disk, acceptance);
        self.warn_once(StatePart::Record, &appended);
        appended
    }

    /// How often clients have acted, as the disk knows it.
    pub(crate) const fn uses(&self) -> &UseCounts {
        &self.uses
    }

    /// The pauses of one-time passwords, as an earlier daemon has counted them.
    pub(crate) const fn otp_pauses(&self) -> &OtpPauses {
        &self.otp_pauses
    }

    /// A clean end: the journal is on the disk before the lease says so.
    ///
    /// # Errors
    /// When that cannot be had; the next start then goes by the boot id.
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

/// How far the lease should reach.
fn lease_wanted(memory: &ReplayMemory, now: Timestamp, window: Duration) -> Timestamp {
    memory.highest().max(now.plus(window).plus(LEASE_AHEAD))
}
