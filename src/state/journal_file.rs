//! The journal on the disk: records are appended to the room that it has been given, and when that is used up it is
//! written again as a whole, in the background, into the room of the one before.

use super::disk::Disk;
use super::error::StateError;
use super::journal::{self, JournalRecord, Number, RECORD};
use spa_knock_core::auth::{Acceptance, ReplayMemory};
use spa_knock_core::crypto::random;

/// Its name in the state folder.
pub(super) const JOURNAL: &str = "replay.journal";

/// Records that are appended before it is written again: 768 KiB.
const APPENDED_MAX: u64 = if cfg!(test) { 1 << 5 } else { 1 << 14 };
/// Room for what is appended while that is under way.
const SLACK: u64 = if cfg!(test) { 1 << 3 } else { 1 << 11 };
/// Records between two attempts to write it again.
const RETRY: u64 = APPENDED_MAX >> 3;
/// Records that are appended where it cannot be written again: 12 MiB. Then knocks are refused.
pub(super) const UNWRITTEN_MAX: u64 = if cfg!(test) { 1 << 7 } else { 1 << 18 };

/// The open journal.
pub(super) struct JournalFile<F> {
    file: F,
    number: Number,
    /// Where the end mark is, in records.
    end: u64,
    /// Where it was when the journal was written as a whole.
    start: u64,
    /// How far it has room, in records.
    room: u64,
    /// Where the end mark is when it is time to write it again.
    rewrite_at: u64,
    next: Option<JournalRewrite>,
}

/// A journal that is being written, until it takes the place of this one.
struct JournalRewrite {
    /// What has been accepted since it was begun.
    since: Vec<Acceptance>,
}

/// A whole journal that has been written and has no name yet.
pub(super) struct WrittenJournal<F> {
    file: F,
    number: Number,
    end: u64,
    room: u64,
}

impl<F> JournalFile<F> {
    /// Writes the journal of `memory`, and keeps the room of another one.
    ///
    /// # Errors
    /// When the disk does not take it. Without room for another one there is only a warning.
    pub(super) fn write<D: Disk<File = F>>(disk: &D, memory: &ReplayMemory) -> Result<Self, StateError> {
        let written = create(disk, memory)?;
        disk.adopt(JOURNAL)?;
        disk.sync_names()?;
        if let Err(error) = disk.reserve(JOURNAL, in_bytes(room_for(written.end))) {
            log::warn!("replay state: {error}; if the disk is full, knocks will be refused");
        }
        Ok(Self::of(written))
    }

    fn of(WrittenJournal { file, number, end, room }: WrittenJournal<F>) -> Self {
        let soon = room.saturating_sub(SLACK);
        let usual = end.saturating_add(APPENDED_MAX);
        // Before the room is used up; where there is none, as if there were.
        let rewrite_at = if soon > end { usual.min(soon) } else { usual };
        Self { file, number, end, start: end, room, rewrite_at, next: None }
    }

    /// The open file.
    pub(super) const fn file(&self) -> &F {
        &self.file
    }

    /// Whether it is time to write it again.
    pub(super) const fn is_long(&self) -> bool {
        self.end >= self.rewrite_at && self.next.is_none()
    }

    /// Appends an acceptance.
    ///
    /// # Errors
    /// When the disk does not take it; the journal is as it was.
    pub(super) fn append<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        acceptance: &Acceptance,
    ) -> Result<(), StateError> {
        if self.end.saturating_sub(self.start) >= UNWRITTEN_MAX {
            return Err(StateError::Full);
        }
        let (bytes, next) = journal::appended([*acceptance].iter(), &self.number, self.end);
        if let Err(error) = disk.write_at(&self.file, &bytes, in_bytes(self.end)) {
            self.restore_end(disk);
            // The room is used up, and the disk has no more: what a whole journal needs not say is left out there.
            let had_room = self.room > self.start.saturating_add(SLACK);
            if had_room && self.end.saturating_add(1) >= self.room {
                self.rewrite_at = self.end;
            }
            return Err(error.into());
        }
        self.end = next;
        if let Some(coming) = &mut self.next {
            coming.since.push(*acceptance);
        }
        Ok(())
    }

    /// After a write that was cut short: the end mark back to where it was, and nothing behind it.
    fn restore_end<D: Disk<File = F>>(&self, disk: &D) {
        let mark = journal::record(JournalRecord::End, &self.number, self.end);
        // If one of these fails too, the next start finds a torn end, which it takes for one.
        let after = self.end.saturating_add(1);
        if after < self.room {
            let bytes = [mark, [0; RECORD]].concat();
            let _ = disk.write_at(&self.file, &bytes, in_bytes(self.end));
        } else {
            let _ = disk.write_at(&self.file, &mark, in_bytes(self.end));
            let _ = disk.cut(&self.file, in_bytes(after));
        }
    }

    /// The work that writes it again, for a thread that may wait for the disk. What is accepted in the meantime is in
    /// this journal and follows.
    pub(super) fn begin_rewrite<D: Disk<File = F>>(
        &mut self,
        disk: D,
        memory: ReplayMemory,
    ) -> impl FnOnce() -> Result<WrittenJournal<F>, StateError> + Send + use<F, D> {
        self.rewrite_at = self.end.saturating_add(RETRY);
        self.next = Some(JournalRewrite { since: Vec::new() });
        move || create(&disk, &memory)
    }

    /// The journal that was written takes the place of this one.
    ///
    /// # Errors
    /// When it could not be written; this one goes on.
    pub(super) fn finish_rewrite<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        written: Result<WrittenJournal<F>, StateError>,
    ) -> Result<(), StateError> {
        let Some(JournalRewrite { since }) = self.next.take() else { return Ok(()) };
        let mut written = written?;
        let (bytes, end) = journal::appended(since.iter(), &written.number, written.end);
        disk.write_at(&written.file, &bytes, in_bytes(written.end))?;
        disk.adopt(JOURNAL)?;
        let start = written.end;
        written.end = end;
        *self = Self { start, ..Self::of(written) };
        Ok(())
    }
}

/// Writes a whole journal, with room for what will be appended.
fn create<D: Disk>(disk: &D, memory: &ReplayMemory) -> Result<WrittenJournal<D::File>, StateError> {
    let number = random().map_err(|_| StateError::System("the system has no random numbers"))?;
    let (bytes, end) = journal::whole(memory, &number);
    let room = in_bytes(room_for(end));
    let (file, length) = disk.create(JOURNAL, &bytes, usize::try_from(room).unwrap_or_default())?;
    let record = u64::try_from(RECORD).unwrap_or(u64::MAX);
    Ok(WrittenJournal { file, number, end, room: length.checked_div(record).unwrap_or_default() })
}

/// The room, in records, of a journal that has so many when it is written: for twice as many the next time.
fn room_for(end: u64) -> u64 {
    end.saturating_add(end.max(APPENDED_MAX)).saturating_add(SLACK)
}

fn in_bytes(records: u64) -> u64 {
    u64::try_from(RECORD).unwrap_or(u64::MAX).saturating_mul(records)
}
