//! The replay memory on disk: no accepted knock acts twice, whatever dies when (`docs/protocol.md`, section 6).
//!
//! `journal` has a record of each acceptance, written before anything happens; the page cache outlives us. `lease`
//! is for what does not outlive: after a power loss nothing that may have been accepted is believed.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::disk::Disk;
use super::journal::{self, JournalContent};
use super::journal_file::{JOURNAL, JournalFile, WrittenJournal};
use super::lease::{Lease, LeaseLimit};
use super::otp_pauses::OtpPauses;
use super::{otp_pauses, uses};
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::worker::Worker;
use spa_knock_core::auth::{Acceptance, ReplayMemory, UseCounts};
use spa_knock_core::knock::{Now, Timestamp};

const LEASE: &str = "replay.lease";

/// How far the lease reaches beyond the window.
const LEASE_AHEAD: Duration = Duration::from_secs(60);
/// It is renewed when it reaches no further beyond the window than this.
const LEASE_MIN: Duration = Duration::from_secs(30);
/// It is lowered when it reaches so much further than it needs: a clock was ahead and has been set right.
const LEASE_SLACK: Duration = Duration::from_secs(600);
/// Between two tries to renew it.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How much sooner, where a knock waits for it.
const LEASE_HASTE: Duration = Duration::from_millis(800);
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
    /// The steady time when this was last tended.
    tended: Duration,
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

/// What a reset does with the floors that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floors {
    /// They stay, also where they are ahead of the clock.
    Keep,
    /// They go: a knock that was accepted while the clock was ahead can be accepted again when its time comes.
    Forget,
}

/// What a reset came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reset {
    /// No knock stamped at or before this time is accepted.
    pub(crate) floor: Timestamp,
    /// Whether that is further ahead than a reset needs.
    pub(crate) is_ahead: bool,
    /// Whether the old floors are gone.
    pub(crate) lost: bool,
}

/// What has ended in the background that a knock may wait for.
#[derive(Debug, Default)]
pub(crate) struct FinishedSyncs {
    /// A lease has been written, or could not be.
    pub(crate) lease: Option<Result<(), String>>,
    /// Use counts have been recorded, or could not be.
    pub(crate) uses: Option<Result<(), String>>,
}

/// What can fail while the others work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatePart {
    Lease,
    Record,
    Rewrite,
    Uses,
    OtpPauses,
}

enum Renewal {
    UnderWay,
    /// Nothing is, and nothing will be before this steady time.
    From(Duration),
}

enum SyncJob<F> {
    Lease(Result<Timestamp, FileError>),
    Journal(Result<WrittenJournal<F>, StateError>),
    Names(Result<(), FileError>),
    OtpPauses(Result<(), FileError>),
    Uses(UseCounts, Result<(), StateError>),
}

/// Why there is no state to go on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file cannot be read or written.
    #[error("replay state: {0}")]
    File(#[from] FileError),
    /// It is not what was written.
    #[error(
        "replay state {0}: {1}\nhint: spa-knockd state reset (refuses for a while what was knocked of late; nothing is believed twice)"
    )]
    Damaged(String, &'static str),
    /// The use counts are not what was written.
    #[error(
        "use counts {0}: not as it was written\nhint: remove it; what clients with `uses` have used so far is then forgotten, so lower theirs first"
    )]
    Uses(String),
    /// The lease does not reach this far.
    #[error("replay state: the disk does not take a lease that reaches this knock's time")]
    Lease,
    /// The journal has grown to its bound and cannot be written anew.
    #[error("replay state: the journal is full and cannot be written anew")]
    Full,
    /// The system has no random numbers or no boot id.
    #[error("replay state: {0}")]
    System(&'static str),
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

    /// Raises every floor to at least `now` + `window`: what was accepted stays refused, whatever is damaged.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn reset(
        disk: D,
        boot: String,
        now: Now,
        window: Duration,
        floors: Floors,
    ) -> Result<Reset, StateError> {
        // What cannot be read is what this repairs.
        let read = |name| disk.read(name).ok().flatten();
        let lease = read(LEASE).and_then(|bytes| Lease::read(&bytes)).filter(|_| floors == Floors::Keep);
        let mut memory = match journal::read(&read(JOURNAL).unwrap_or_default()) {
            _ if floors == Floors::Forget => ReplayMemory::new(Timestamp::default()),
            JournalContent::Whole(memory) => memory,
            JournalContent::Torn(memory) if lease.is_some() => memory,
            _ => ReplayMemory::new(Timestamp::default()),
        };
        let lost = lease.is_none() && memory.highest() == Timestamp::default();
        if let Some(lease) = lease {
            memory.raise_floors(lease.until);
        }
        memory.raise_floors(now.wall.plus(window));
        let floor = memory.highest_floor();
        let is_ahead = floor_ahead(&memory, now.wall, window).is_some();
        Self::initialize(disk, boot, &memory, now, window)?.close()?;
        Ok(Reset { floor, is_ahead, lost })
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
            renewal: Renewal::From(now.steady),
            wanted: Timestamp::default(),
            tended: now.steady,
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

    /// Begins to put on record how often clients have acted; [`Self::ended`] reports when the disk knows it. Only then
    /// may they act once more.
    pub(crate) fn begin_uses(&mut self, uses: UseCounts) {
        let disk = self.disk.clone();
        self.worker.ask(move || {
            let recorded = uses::record(&disk, &uses);
            SyncJob::Uses(uses, recorded)
        });
    }

    /// The pauses of one-time passwords, as an earlier daemon has counted them.
    pub(crate) const fn otp_pauses(&self) -> &OtpPauses {
        &self.otp_pauses
    }

    /// Puts other pauses on record, in the background.
    pub(crate) fn record_otp_pauses(&mut self, pauses: OtpPauses) {
        // An end that moves by the milliseconds in which it was computed is no other.
        let counts = |pauses: &OtpPauses| -> Vec<_> {
            pauses.iter().map(|(name, pause)| (name.clone(), pause.count)).collect()
        };
        if counts(&self.otp_pauses) == counts(&pauses) {
            return;
        }
        let (disk, text) = (self.disk.clone(), otp_pauses::text(&pauses));
        self.otp_pauses = pauses;
        self.worker
            .ask(move || SyncJob::OtpPauses(disk.replace(otp_pauses::PAUSES, text.as_bytes()).map(drop)));
    }

    /// What has ended since the last call.
    pub(crate) fn ended(&mut self) -> FinishedSyncs {
        std::mem::take(&mut self.ended)
    }

    /// Work that no knock should wait for: the lease is renewed in the background, a long journal written again.
    pub(crate) fn run_due(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        self.tended = now.steady;
        for written in self.worker.finished() {
            self.on_synced(written);
        }
        self.renew_lease(memory, now, window);
        if self.journal.is_long() {
            // What is copied here is small; the checksums of all records take longer.
            let rewrite = self.journal.begin_rewrite(self.disk.clone(), memory.clone());
            self.worker.ask(move || SyncJob::Journal(rewrite()));
        }
    }

    /// In what time `tend` has something to do, if no work ends before.
    pub(crate) fn time_to_deadline(&self, steady: Duration) -> Option<Duration> {
        match self.renewal {
            Renewal::From(from) if self.wanted > self.until => {
                Some(from.saturating_sub(LEASE_HASTE).saturating_sub(steady))
            }
            _ => None,
        }
    }

    /// Readable when work in the background has ended.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.worker.descriptor()
    }

    /// Waits for all work in the background.
    pub(crate) fn settle(&mut self) {
        for written in self.worker.settle() {
            self.on_synced(written);
        }
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

    fn renew_lease(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        let Renewal::From(from) = self.renewal else { return };
        let usual = lease_wanted(memory, now.wall, window);
        let is_missed = self.wanted > self.until;
        let wanted = if is_missed { usual.max(self.wanted.plus(LEASE_AHEAD)) } else { usual };
        let short = self.until < now.wall.plus(window).plus(LEASE_MIN);
        let long = self.until > wanted.plus(LEASE_SLACK);
        let from = if is_missed { from.saturating_sub(LEASE_HASTE) } else { from };
        if now.steady < from || !(short || long || is_missed) {
            return;
        }
        // From here on a lower one counts: what is above it must wait for the disk.
        self.until = self.until.min(wanted);
        let (disk, text) = (self.disk.clone(), self.lease(wanted, LeaseLimit::Open).to_text());
        self.renewal = Renewal::UnderWay;
        self.worker.ask(move || SyncJob::Lease(disk.replace(LEASE, text.as_bytes()).map(|_| wanted)));
    }

    fn on_synced(&mut self, written: SyncJob<D::File>) {
        let (part, outcome) = match written {
            SyncJob::Lease(outcome) => {
                let retry = if outcome.is_ok() { Duration::ZERO } else { LEASE_RETRY };
                self.renewal = Renewal::From(self.tended.saturating_add(retry));
                let outcome = outcome.map(|until| self.until = until).map_err(StateError::from);
                self.wanted = Timestamp::default();
                self.ended.lease = Some(described(&outcome));
                (StatePart::Lease, outcome)
            }
            SyncJob::Journal(written) => {
                let outcome = self.journal.finish_rewrite(&self.disk, written);
                if outcome.is_ok() {
                    let disk = self.disk.clone();
                    self.worker.ask(move || SyncJob::Names(disk.sync_names()));
                }
                (StatePart::Rewrite, outcome)
            }
            SyncJob::Names(outcome) => (StatePart::Rewrite, outcome.map_err(StateError::from)),
            SyncJob::OtpPauses(outcome) => (StatePart::OtpPauses, outcome.map_err(StateError::from)),
            SyncJob::Uses(uses, outcome) => {
                let outcome = outcome.map(|()| self.uses = uses);
                self.ended.uses = Some(described(&outcome));
                (StatePart::Uses, outcome)
            }
        };
        self.warn_once(part, &outcome);
    }

    /// Says once that a part fails, and once that it works again.
    fn warn_once(&mut self, part: StatePart, outcome: &Result<(), StateError>) {
        match (outcome, self.failing.contains(&part)) {
            (Ok(()), true) => {
                self.failing.retain(|failing| *failing != part);
                log::info!("replay state: can be written again");
            }
            (Err(error), false) => {
                self.failing.push(part);
                log::error!("{error}; what cannot be put on record is refused");
            }
            _ => {}
        }
    }

    fn write_lease(&self, until: Timestamp, end: LeaseLimit) -> Result<(), StateError> {
        self.disk.replace(LEASE, self.lease(until, end).to_text().as_bytes())?;
        Ok(())
    }

    fn lease(&self, until: Timestamp, end: LeaseLimit) -> Lease {
        Lease { boot: self.boot.clone(), until, end }
    }
}

/// What the files on `disk` say is to be refused. Changes nothing.
///
/// # Errors
/// When a daemon could not start with them.
pub(super) fn remembered(disk: &impl Disk, boot: &str, now: Timestamp) -> Result<ReplayMemory, StateError> {
    let damaged = |name, why| StateError::Damaged(disk.place(name), why);
    let content = disk.read(JOURNAL)?.as_deref().map(journal::read);
    let (content, lease) = match (content, disk.read(LEASE)?) {
        (None | Some(JournalContent::Empty), None) => return Ok(ReplayMemory::new(now)),
        // A first start that died before its lease: it heard nobody, so nothing was accepted.
        (Some(JournalContent::Whole(mut memory)), None) if memory.is_empty() => {
            memory.restore_start(now, Timestamp::default());
            return Ok(memory);
        }
        (Some(_), None) => return Err(damaged(LEASE, "missing beside a journal")),
        (None, Some(_)) => return Err(damaged(JOURNAL, "missing beside a lease")),
        (Some(content), Some(lease)) => (content, lease),
    };
    let lease = Lease::read(&lease).ok_or_else(|| damaged(LEASE, "not as it was written"))?;
    if lease.boot != boot && lease.end == LeaseLimit::Open {
        log::warn!(
            "replay state: power was lost; knocks are believed again that are stamped after {}",
            clock::rfc3339(lease.until)
        );
        let mut memory = ReplayMemory::new(lease.until);
        memory.raise_floors(lease.until);
        return Ok(memory);
    }
    match content {
        JournalContent::Whole(memory) => Ok(memory),
        JournalContent::Torn(mut memory) => {
            log::warn!(
                "replay state: the last write was cut short; knocks are believed again that are stamped after {}",
                clock::rfc3339(lease.until)
            );
            memory.raise_floors(lease.until);
            Ok(memory)
        }
        JournalContent::Empty | JournalContent::Damaged => Err(damaged(JOURNAL, "not as it was written")),
    }
}

/// The highest floor, if it is further ahead than a right clock, a power loss or a reset makes it.
pub(super) fn floor_ahead(memory: &ReplayMemory, now: Timestamp, window: Duration) -> Option<Timestamp> {
    let floor = memory.highest_floor();
    (floor > now.plus(window).plus(LEASE_AHEAD)).then_some(floor)
}

/// What there is to report of such a floor.
pub(super) fn ahead(floor: Timestamp) -> String {
    format!(
        "replay state: some knocks are refused until {}: the clock was ahead when the state was written\nhint: if the clock is right now, stop the daemon and run spa-knockd state reset --forget",
        clock::rfc3339(floor)
    )
}

/// How far the lease should reach.
fn lease_wanted(memory: &ReplayMemory, now: Timestamp, window: Duration) -> Timestamp {
    memory.highest().max(now.plus(window).plus(LEASE_AHEAD))
}

fn described(outcome: &Result<(), StateError>) -> Result<(), String> {
    outcome.as_ref().map_err(ToString::to_string).copied()
}
