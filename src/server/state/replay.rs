//! The replay memory on disk: no accepted knock acts twice, whatever dies when (`docs/protocol.md`, section 6).
//!
//! `journal` has a record of each acceptance, written before anything happens; the page cache outlives us. `lease`
//! is for what does not outlive: after a power loss nothing that may have been accepted is believed.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::disk::Disk;
use super::journal::{self, Content, Entry, Number, RECORD};
use super::lease::{End, Lease};
use super::otp_pauses::{self, OtpPauses};
use super::scribe::Scribe;
use super::uses;
use crate::crypto::random;
use crate::gate::{Acceptance, ReplayMemory, UseCounts};
use crate::knock::{Now, Timestamp};
use crate::os::clock;
use crate::os::files::FileError;

pub(super) const JOURNAL: &str = "replay.journal";
const LEASE: &str = "replay.lease";

/// How far the lease reaches beyond the window.
const LEASE_AHEAD: Duration = Duration::from_secs(60);
/// It is renewed when it reaches no further beyond the window than this.
const LEASE_MIN: Duration = Duration::from_secs(30);
/// It is lowered when it reaches so much further than it needs: a clock was ahead and has been set right.
const LEASE_SLACK: Duration = Duration::from_secs(600);
/// Between two tries to renew it.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// Records that are appended before the journal is written anew: 3 MiB.
const APPENDED_MAX: u64 = if cfg!(test) { 1 << 3 } else { 1 << 16 };
/// Between two tries to write it anew.
const APPENDED_RETRY: u64 = APPENDED_MAX >> 3;
/// Records of a journal that could not be written anew; nothing is appended any more: 12 MiB.
const RECORDS_MAX: u64 = 1 << 18;

/// The open state.
pub(in crate::server) struct ReplayState<D: Disk> {
    disk: D,
    boot: String,
    journal: D::File,
    number: Number,
    /// Where the end mark stands.
    end: u64,
    /// Where it stands when the journal is to be written anew.
    rewrite_at: u64,
    /// A journal that is being written anew, until it takes the place of this one.
    coming: Option<Coming>,
    /// What the lease on the disk reaches at least.
    until: Timestamp,
    renewal: Renewal,
    /// The steady time when this was last tended.
    tended: Duration,
    scribe: Scribe<Written<D::File>>,
    /// What the disk knows of them.
    uses: UseCounts,
    /// What the disk knows of these, or will in a moment.
    otp_pauses: OtpPauses,
    /// What has been told to fail and not yet to work again.
    failing: Vec<Part>,
}

/// What can fail while the others work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Lease,
    Record,
    Rewrite,
    Uses,
    OtpPauses,
}

struct Coming {
    number: Number,
    end: u64,
    /// What has been accepted since it was begun.
    since: Vec<Acceptance>,
}

enum Renewal {
    UnderWay,
    /// Nothing is, and nothing will be before this steady time.
    From(Duration),
}

enum Written<F> {
    Lease(Result<Timestamp, FileError>),
    Journal(Result<F, FileError>),
    Names(Result<(), FileError>),
    OtpPauses(Result<(), FileError>),
}

/// Why there is no state to go on with.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum StateError {
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
    pub(in crate::server) fn open(
        disk: D,
        boot: String,
        now: Now,
        window: Duration,
    ) -> Result<(Self, ReplayMemory), StateError> {
        let memory = remembered(&disk, &boot, now.wall)?;
        let uses = uses::remembered(&disk)?;
        let otp_pauses = otp_pauses::remembered(&disk)?;
        Self::begin(disk, boot, &memory, now, window)
            .map(|state| (Self { uses, otp_pauses, ..state }, memory))
    }

    /// Raises every floor to at least `now` + `window`: what was accepted stays refused, whatever is damaged.
    /// Returns a warning where the old floors could not be read.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(in crate::server) fn reset(
        disk: D,
        boot: String,
        now: Now,
        window: Duration,
    ) -> Result<Option<&'static str>, StateError> {
        // What cannot be read is what this mends.
        let read = |name| disk.read(name).ok().flatten();
        let lease = read(LEASE).and_then(|bytes| Lease::read(&bytes));
        let mut memory = match journal::read(&read(JOURNAL).unwrap_or_default()) {
            Content::Whole(memory) => memory,
            Content::Torn(memory) if lease.is_some() => memory,
            _ => ReplayMemory::new(Timestamp::default()),
        };
        let lost = lease.is_none() && memory.highest() == Timestamp::default();
        if let Some(lease) = lease {
            memory.raise_floors(lease.until);
        }
        memory.raise_floors(now.wall.plus(window));
        Self::begin(disk, boot, &memory, now, window)?.close()?;
        Ok(lost.then_some(
            "the old floors could not be read: make new keys for clients whose clocks may have been ahead",
        ))
    }

    /// Writes both files anew, the journal first: only then does the lease name this boot.
    fn begin(
        disk: D,
        boot: String,
        memory: &ReplayMemory,
        now: Now,
        window: Duration,
    ) -> Result<Self, StateError> {
        let number = new_number()?;
        let (bytes, end) = journal::whole(memory, &number);
        let journal = disk.replace(JOURNAL, &bytes)?;
        let until = lease_wanted(memory, now.wall, window);
        let scribe = Scribe::start().map_err(|_| StateError::System("no thread can be started"))?;
        let state = Self {
            disk,
            boot,
            journal,
            number,
            end,
            rewrite_at: end.saturating_add(APPENDED_MAX),
            coming: None,
            until,
            renewal: Renewal::From(now.steady),
            tended: now.steady,
            scribe,
            uses: UseCounts::default(),
            otp_pauses: OtpPauses::new(),
            failing: Vec::new(),
        };
        state.write_lease(until, End::Open)?;
        Ok(state)
    }

    /// Puts an acceptance on record. Only then may it be acted on.
    ///
    /// # Errors
    /// When it is not on record now; the journal is as it was.
    pub(in crate::server) fn record(&mut self, acceptance: &Acceptance) -> Result<(), StateError> {
        self.extend_lease(acceptance.timestamp)?;
        let appended = self.append(acceptance);
        self.tell(Part::Record, &appended);
        appended
    }

    /// How often clients have acted, as the disk knows it.
    pub(in crate::server) const fn uses(&self) -> &UseCounts {
        &self.uses
    }

    /// Puts on record how often clients have acted, if it has changed; only then may one more act.
    ///
    /// # Errors
    /// When the disk does not say that it will know it after a power loss.
    pub(in crate::server) fn record_uses(&mut self, uses: &UseCounts) -> Result<(), StateError> {
        if self.uses == *uses {
            return Ok(());
        }
        let written = uses::record(&self.disk, uses);
        self.tell(Part::Uses, &written);
        written.map(|()| self.uses = uses.clone())
    }

    /// The pauses of one-time passwords, as an earlier daemon has counted them.
    pub(in crate::server) const fn otp_pauses(&self) -> &OtpPauses {
        &self.otp_pauses
    }

    /// Puts other pauses on record, in the background.
    pub(in crate::server) fn record_otp_pauses(&mut self, pauses: OtpPauses) {
        // An end that moves by the milliseconds in which it was computed is no other.
        let counts = |pauses: &OtpPauses| -> Vec<_> {
            pauses.iter().map(|(name, pause)| (name.clone(), pause.count)).collect()
        };
        if counts(&self.otp_pauses) == counts(&pauses) {
            return;
        }
        let (disk, text) = (self.disk.clone(), otp_pauses::text(&pauses));
        self.otp_pauses = pauses;
        self.scribe
            .ask(move || Written::OtpPauses(disk.replace(otp_pauses::PAUSES, text.as_bytes()).map(drop)));
    }

    /// Work that no knock should wait for: the lease is renewed in the background, a long journal written anew.
    pub(in crate::server) fn tend(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        self.tended = now.steady;
        for written in self.scribe.finished() {
            self.take(written);
        }
        self.renew_lease(memory, now, window);
        if self.end >= self.rewrite_at && self.coming.is_none() {
            self.begin_rewrite(memory);
        }
    }

    /// Readable when work in the background has ended.
    pub(in crate::server) fn descriptor(&self) -> BorrowedFd<'_> {
        self.scribe.descriptor()
    }

    /// A clean end: the journal is on the disk before the lease says so.
    ///
    /// # Errors
    /// When that cannot be had; the next start then goes by the boot id.
    pub(in crate::server) fn close(mut self) -> Result<(), StateError> {
        self.scribe.settle();
        self.disk.sync(&self.journal)?;
        self.disk.sync_names()?;
        self.write_lease(self.until, End::Clean)
    }

    /// The disk is waited for only when a renewal in the background came too late.
    fn extend_lease(&mut self, timestamp: Timestamp) -> Result<(), StateError> {
        if timestamp <= self.until {
            return Ok(());
        }
        // What is under way first, or it could still overwrite what is written here.
        for written in self.scribe.settle() {
            self.take(written);
        }
        if timestamp <= self.until {
            return Ok(());
        }
        let until = timestamp.plus(LEASE_AHEAD);
        let written = self.write_lease(until, End::Open);
        self.tell(Part::Lease, &written);
        written.map(|()| self.until = until)
    }

    fn append(&mut self, acceptance: &Acceptance) -> Result<(), StateError> {
        if self.end >= RECORDS_MAX {
            return Err(StateError::Full);
        }
        let (bytes, next) = journal::appended([*acceptance].iter(), &self.number, self.end);
        if let Err(error) = self.disk.write_at(&self.journal, &bytes, offset(self.end)) {
            self.mend_end();
            return Err(error.into());
        }
        self.end = next;
        if let Some(coming) = &mut self.coming {
            coming.since.push(*acceptance);
        }
        Ok(())
    }

    /// After a write that was cut short: the end mark back to where it was.
    fn mend_end(&self) {
        let mark = journal::record(Entry::End, &self.number, self.end);
        // If this fails too, the next start finds a torn end, which it takes for one.
        let _ = self.disk.write_at(&self.journal, &mark, offset(self.end));
        let _ = self.disk.cut(&self.journal, offset(self.end.saturating_add(1)));
    }

    fn renew_lease(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        let Renewal::From(from) = self.renewal else { return };
        let wanted = lease_wanted(memory, now.wall, window);
        let short = self.until < now.wall.plus(window).plus(LEASE_MIN);
        let long = self.until > wanted.plus(LEASE_SLACK);
        if now.steady < from || !(short || long) {
            return;
        }
        // From here on a lower one counts: what is above it must wait for the disk.
        self.until = self.until.min(wanted);
        let (disk, text) = (self.disk.clone(), self.lease(wanted, End::Open).to_text());
        self.renewal = Renewal::UnderWay;
        self.scribe.ask(move || Written::Lease(disk.replace(LEASE, text.as_bytes()).map(|_| wanted)));
    }

    /// The new journal is written in the background; what is accepted meanwhile stands in the old one and follows.
    fn begin_rewrite(&mut self, memory: &ReplayMemory) {
        self.rewrite_at = self.end.saturating_add(APPENDED_RETRY);
        let Ok(number) = new_number() else { return };
        let (bytes, end) = journal::whole(memory, &number);
        self.coming = Some(Coming { number, end, since: Vec::new() });
        let disk = self.disk.clone();
        self.scribe.ask(move || Written::Journal(disk.create(JOURNAL, &bytes)));
    }

    fn finish_rewrite(&mut self, file: D::File) -> Result<(), StateError> {
        let Some(Coming { number, end, since }) = self.coming.take() else { return Ok(()) };
        let (bytes, next) = journal::appended(since.iter(), &number, end);
        self.disk.write_at(&file, &bytes, offset(end))?;
        self.disk.adopt(JOURNAL)?;
        (self.journal, self.number, self.end) = (file, number, next);
        self.rewrite_at = end.saturating_add(APPENDED_MAX);
        let disk = self.disk.clone();
        self.scribe.ask(move || Written::Names(disk.sync_names()));
        Ok(())
    }

    fn take(&mut self, written: Written<D::File>) {
        let (part, outcome) = match written {
            Written::Lease(outcome) => {
                self.renewal = Renewal::From(self.tended.saturating_add(LEASE_RETRY));
                (Part::Lease, outcome.map(|until| self.until = until).map_err(StateError::from))
            }
            Written::Journal(Ok(file)) => (Part::Rewrite, self.finish_rewrite(file)),
            Written::Journal(Err(error)) => {
                self.coming = None;
                (Part::Rewrite, Err(error.into()))
            }
            Written::Names(outcome) => (Part::Rewrite, outcome.map_err(StateError::from)),
            Written::OtpPauses(outcome) => (Part::OtpPauses, outcome.map_err(StateError::from)),
        };
        self.tell(part, &outcome);
    }

    /// Says once that a part fails, and once that it works again.
    fn tell(&mut self, part: Part, outcome: &Result<(), StateError>) {
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

    fn write_lease(&self, until: Timestamp, end: End) -> Result<(), StateError> {
        self.disk.replace(LEASE, self.lease(until, end).to_text().as_bytes())?;
        Ok(())
    }

    fn lease(&self, until: Timestamp, end: End) -> Lease {
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
        (None | Some(Content::Empty), None) => return Ok(ReplayMemory::new(now)),
        // A first start that died before its lease: it heard nobody, so nothing was accepted.
        (Some(Content::Whole(mut memory)), None) if memory.is_empty() => {
            memory.restore_start(now, Timestamp::default());
            return Ok(memory);
        }
        (Some(_), None) => return Err(damaged(LEASE, "missing beside a journal")),
        (None, Some(_)) => return Err(damaged(JOURNAL, "missing beside a lease")),
        (Some(content), Some(lease)) => (content, lease),
    };
    let lease = Lease::read(&lease).ok_or_else(|| damaged(LEASE, "not as it was written"))?;
    if lease.boot != boot && lease.end == End::Open {
        log::warn!(
            "replay state: power was lost; knocks are believed again that are stamped after {}",
            clock::rfc3339(lease.until)
        );
        let mut memory = ReplayMemory::new(lease.until);
        memory.raise_floors(lease.until);
        return Ok(memory);
    }
    match content {
        Content::Whole(memory) => Ok(memory),
        Content::Torn(mut memory) => {
            log::warn!(
                "replay state: the last write was cut short; knocks are believed again that are stamped after {}",
                clock::rfc3339(lease.until)
            );
            memory.raise_floors(lease.until);
            Ok(memory)
        }
        Content::Empty | Content::Damaged => Err(damaged(JOURNAL, "not as it was written")),
    }
}

/// How far the lease should reach.
fn lease_wanted(memory: &ReplayMemory, now: Timestamp, window: Duration) -> Timestamp {
    memory.highest().max(now.plus(window).plus(LEASE_AHEAD))
}

fn new_number() -> Result<Number, StateError> {
    random().map_err(|_| StateError::System("the system has no random numbers"))
}

fn offset(place: u64) -> u64 {
    u64::try_from(RECORD).unwrap_or(u64::MAX).saturating_mul(place)
}
