//! The replay memory on disk: no accepted knock acts twice, whatever fails (`docs/internals/protocol.md`, section 6).
//!
//! The journal has a record of each acceptance, written before the action. The page cache survives a crash of the
//! daemon, but not a power loss: then the lease makes the daemon refuse everything that can have been accepted.

mod restore;
mod sync;

use std::time::Duration;

use super::disk::Disk;
use super::error::StateError;
use super::journal::JournalRecord;
use super::journal_file::JournalFile;
use super::lease::{KeyBounds, Lease, LeaseLimit};
use super::otp_pauses::OtpPauses;
use super::{otp_pauses, uses};
use crate::os::worker::Worker;
use spa_knock_core::auth::{Acceptance, LastSource, ReplayMemory, UseCounts};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{Now, Steady, Timestamp};
use sync::{FinishedSyncs, Renewal, StatePart, SyncJob};

pub(super) use restore::{Floors, ahead, floor_ahead, remembered};

const LEASE: &str = "replay.lease";

/// How far the lease extends beyond the window.
const LEASE_AHEAD: Duration = Duration::from_secs(60);
/// For how long a knock that could not be recorded is reported.
const UNRECORDED_FOR: Duration = Duration::from_secs(60);
/// Disk space in bytes reserved for the next version of a small file.
const RESERVE: u64 = 4096;

/// The open replay state.
pub(crate) struct ReplayState<D: Disk> {
    disk: D,
    boot: String,
    journal: JournalFile<D::File>,
    /// The lease on disk covers at least this timestamp.
    until: Timestamp,
    /// And these for knocks of these keys.
    ahead: KeyBounds,
    renewal: Renewal,
    /// A timestamp beyond the lease for which a knock waits.
    wanted: Timestamp,
    /// The same for knocks of these keys, which must not extend the lease of all keys.
    wanted_ahead: KeyBounds,
    /// When `run_due` was last called.
    upkept: Steady,
    /// When an acceptance could not be recorded, unless a later one was.
    unrecorded: Option<Steady>,
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
        // A clock that was ahead and is correct now, or the clock of a client, has made knocks of these keys.
        let ahead = ahead_of(memory, usual_lease(now.wall, window));
        let until = lease_wanted(memory, &ahead, now.wall, window);
        let worker = Worker::start().map_err(|_| StateError::System("no thread can be started"))?;
        let state = Self {
            disk,
            boot,
            journal,
            until,
            ahead,
            renewal: Renewal::From { usual: now.steady, urgent: now.steady },
            wanted: Timestamp::default(),
            wanted_ahead: KeyBounds::new(),
            upkept: now.steady,
            unrecorded: None,
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

    /// The same for a knock of this key. A longer lease is for this key only: its holder can choose the
    /// timestamps.
    #[cfg(feature = "fwknop")]
    pub(crate) fn reaches_for(&mut self, key: Fingerprint, timestamp: Timestamp) -> bool {
        let reaches = self.covers(key, timestamp);
        if !reaches {
            let wanted = self.wanted_ahead.entry(key).or_default();
            *wanted = timestamp.max(*wanted);
        }
        reaches
    }

    fn covers(&self, key: Fingerprint, timestamp: Timestamp) -> bool {
        timestamp <= self.until || self.ahead.get(&key).is_some_and(|until| timestamp <= *until)
    }

    /// Writes an acceptance to the journal. The knock must not act before.
    ///
    /// # Errors
    /// If it is not recorded; the journal is then unchanged.
    pub(crate) fn record(&mut self, acceptance: &Acceptance) -> Result<(), StateError> {
        if !self.covers(acceptance.key, acceptance.timestamp) {
            return Err(StateError::Lease);
        }
        let appended = self.journal.append(&self.disk, JournalRecord::Accepted(*acceptance));
        self.unrecorded = appended.is_err().then_some(self.upkept);
        self.warn_once(StatePart::Record, &appended);
        appended
    }

    /// Writes from where the last authorized knock of a key came to the journal. Without room for it, only a later start
    /// does not know it.
    pub(crate) fn record_source(&mut self, key: Fingerprint, source: LastSource) {
        let _ = self.journal.append(&self.disk, JournalRecord::Source(key, source));
    }

    /// Whether the next knock can probably be recorded: the lease can be renewed, and no knock of the last minute could not
    /// be recorded. Older failures do not count: a host that gets no more knocks would never find out that the disk works
    /// again.
    pub(crate) fn can_record(&self) -> bool {
        let failed = self.unrecorded.is_some_and(|at| self.upkept.since(at) < UNRECORDED_FOR);
        !failed && !self.failing.contains(&StatePart::Lease)
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
        self.disk.replace(LEASE, self.lease(until, self.ahead.clone(), end).to_text().as_bytes())?;
        Ok(())
    }

    fn lease(&self, until: Timestamp, ahead: KeyBounds, end: LeaseLimit) -> Lease {
        Lease { boot: self.boot.clone(), until, ahead, end }
    }
}

/// The timestamp that the lease should cover, besides the keys that have bounds of their own.
fn lease_wanted(memory: &ReplayMemory, ahead: &KeyBounds, now: Timestamp, window: Duration) -> Timestamp {
    let common = memory.floor().max(memory.codes_floor()).max(usual_lease(now, window));
    let of_keys =
        highest_of_keys(memory).filter(|(key, high)| ahead.get(key).is_none_or(|until| until < high));
    of_keys.map(|(_, high)| high).fold(common, Timestamp::max)
}

fn usual_lease(now: Timestamp, window: Duration) -> Timestamp {
    now.plus(window).plus(LEASE_AHEAD)
}

/// The keys with timestamps beyond this one.
fn ahead_of(memory: &ReplayMemory, until: Timestamp) -> KeyBounds {
    let mut ahead = KeyBounds::new();
    for (key, high) in highest_of_keys(memory).filter(|(_, high)| *high > until) {
        let bound = ahead.entry(key).or_default();
        *bound = high.max(*bound);
    }
    ahead
}

fn highest_of_keys(memory: &ReplayMemory) -> impl Iterator<Item = (Fingerprint, Timestamp)> {
    memory.floors().map(|(key, _, floor, high)| (key, high.max(floor)))
}
