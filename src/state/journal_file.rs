//! The journal on disk. Records are appended to reserved space. When it is used up, the complete journal is rewritten
//! in the background, into the space of the previous one.

use super::disk::Disk;
use super::error::StateError;
use super::journal::{self, JournalRecord, Number, RECORD};
use spa_knock_core::auth::ReplayMemory;
use spa_knock_core::crypto::random;

/// The file name in the state directory.
pub(super) const JOURNAL: &str = "replay.journal";

/// The number of appended records (768 KiB) after which the journal is rewritten.
const APPENDED_MAX: u64 = if cfg!(test) { 1 << 5 } else { 1 << 14 };
/// Additional space, in records, for what is appended during a rewrite.
const SLACK: u64 = if cfg!(test) { 1 << 3 } else { 1 << 11 };
/// The number of records between two attempts to rewrite the journal.
const RETRY: u64 = APPENDED_MAX >> 3;
/// The number of appended records (12 MiB) after which knocks are refused if the journal cannot be rewritten.
pub(super) const UNWRITTEN_MAX: u64 = if cfg!(test) { 1 << 7 } else { 1 << 18 };

/// The open journal.
pub(super) struct JournalFile<F> {
    file: F,
    number: Number,
    /// Position of the end mark, in records.
    end: u64,
    /// Position of the end mark when the journal was last rewritten.
    start: u64,
    /// The reserved space, in records.
    room: u64,
    /// Position of the end mark at which the next rewrite is due.
    rewrite_at: u64,
    next: Option<JournalRewrite>,
}

/// A rewrite in progress.
struct JournalRewrite {
    /// Records since the rewrite started.
    since: Vec<JournalRecord>,
}

/// A complete journal that is written but does not have its name yet.
pub(super) struct WrittenJournal<F> {
    file: F,
    number: Number,
    end: u64,
    room: u64,
}

impl<F> JournalFile<F> {
    /// Writes the journal of `memory` and reserves space for the next one.
    ///
    /// # Errors
    /// If the journal cannot be written. If no space can be reserved, only a warning is logged.
    pub(super) fn write<D: Disk<File = F>>(disk: &D, memory: &ReplayMemory) -> Result<Self, StateError> {
        let written = create(disk, memory)?;
        disk.adopt(JOURNAL)?;
        disk.sync_names()?;
        if let Err(error) = disk.reserve(JOURNAL, in_bytes(room_for(written.end))) {
            log::warn!(
                "replay state: {error}; no disk space is reserved, so knocks will be refused when the disk is full"
            );
        }
        Ok(Self::of(written))
    }

    fn of(WrittenJournal { file, number, end, room }: WrittenJournal<F>) -> Self {
        let soon = room.saturating_sub(SLACK);
        let usual = end.saturating_add(APPENDED_MAX);
        // The rewrite is due before the space is used up. Without reserved space, the usual number of records counts.
        let rewrite_at = if soon > end { usual.min(soon) } else { usual };
        Self { file, number, end, start: end, room, rewrite_at, next: None }
    }

    /// The open file.
    pub(super) const fn file(&self) -> &F {
        &self.file
    }

    /// Whether a rewrite is due.
    pub(super) const fn is_long(&self) -> bool {
        self.end >= self.rewrite_at && self.next.is_none()
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it cannot be written; the journal is then unchanged.
    pub(super) fn append<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        entry: JournalRecord,
    ) -> Result<(), StateError> {
        if self.end.saturating_sub(self.start) >= UNWRITTEN_MAX {
            return Err(StateError::Full);
        }
        let (bytes, next) = journal::appended([entry], &self.number, self.end);
        if let Err(error) = disk.write_at(&self.file, &bytes, in_bytes(self.end)) {
            self.restore_end(disk);
            // The space is used up and the disk is full: a rewritten journal omits old records and is shorter.
            let had_room = self.room > self.start.saturating_add(SLACK);
            if had_room && self.end.saturating_add(1) >= self.room {
                self.rewrite_at = self.end;
            }
            return Err(error.into());
        }
        self.end = next;
        if let Some(rewrite) = &mut self.next {
            rewrite.since.push(entry);
        }
        Ok(())
    }

    /// Restores the end mark after an incomplete write, with nothing after it.
    fn restore_end<D: Disk<File = F>>(&self, disk: &D) {
        let mark = journal::record(JournalRecord::End, &self.number, self.end);
        // If one of these fails too, the next start finds an incomplete end, which it can handle.
        let after = self.end.saturating_add(1);
        if after < self.room {
            let bytes = [mark, [0; RECORD]].concat();
            let _ = disk.write_at(&self.file, &bytes, in_bytes(self.end));
        } else {
            let _ = disk.write_at(&self.file, &mark, in_bytes(self.end));
            let _ = disk.cut(&self.file, in_bytes(after));
        }
    }

    /// Starts a rewrite. Returns its work, for a thread that is allowed to wait for the disk. Records in the
    /// meantime are appended to this journal, and to the new one when it is finished.
    pub(super) fn begin_rewrite<D: Disk<File = F>>(
        &mut self,
        disk: D,
        memory: ReplayMemory,
    ) -> impl FnOnce() -> Result<WrittenJournal<F>, StateError> + Send + use<F, D> {
        self.rewrite_at = self.end.saturating_add(RETRY);
        self.next = Some(JournalRewrite { since: Vec::new() });
        move || create(&disk, &memory)
    }

    /// Replaces this journal with the rewritten one.
    ///
    /// # Errors
    /// If the rewrite failed; this journal remains in use.
    pub(super) fn finish_rewrite<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        written: Result<WrittenJournal<F>, StateError>,
    ) -> Result<(), StateError> {
        let Some(JournalRewrite { since }) = self.next.take() else { return Ok(()) };
        let mut written = written?;
        let (bytes, end) = journal::appended(since, &written.number, written.end);
        disk.write_at(&written.file, &bytes, in_bytes(written.end))?;
        disk.adopt(JOURNAL)?;
        let start = written.end;
        written.end = end;
        *self = Self { start, ..Self::of(written) };
        Ok(())
    }
}

/// Writes a complete journal, with space for appended records.
fn create<D: Disk>(disk: &D, memory: &ReplayMemory) -> Result<WrittenJournal<D::File>, StateError> {
    let number = random().map_err(|_| StateError::System("the system has no random numbers"))?;
    let (bytes, end) = journal::whole(memory, &number);
    let room = in_bytes(room_for(end));
    let (file, length) = disk.create(JOURNAL, &bytes, usize::try_from(room).unwrap_or_default())?;
    let record = u64::try_from(RECORD).unwrap_or(u64::MAX);
    Ok(WrittenJournal { file, number, end, room: length.checked_div(record).unwrap_or_default() })
}

/// The space, in records, for a journal that is written with `end` records: enough for twice as many.
fn room_for(end: u64) -> u64 {
    end.saturating_add(end.max(APPENDED_MAX)).saturating_add(SLACK)
}

fn in_bytes(records: u64) -> u64 {
    u64::try_from(RECORD).unwrap_or(u64::MAX).saturating_mul(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::FileError;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    const NUMBER: Number = [7; 8];

    /// A disk on which no write succeeds. It notes where records were to be written, how many, and where files were to be
    /// truncated.
    #[derive(Clone, Default)]
    struct RefusingDisk(Arc<Mutex<Vec<DiskCall>>>);

    #[derive(Debug, PartialEq)]
    enum DiskCall {
        Write { at: u64, records: usize },
        Cut { at: u64 },
    }

    impl RefusingDisk {
        fn refuse(&self, call: DiskCall) -> Result<(), FileError> {
            self.0.lock().unwrap().push(call);
            Err(FileError::io(Path::new("journal"), &std::io::Error::from(std::io::ErrorKind::StorageFull)))
        }
    }

    impl Disk for RefusingDisk {
        type File = ();

        fn place(&self, name: &str) -> String {
            name.to_owned()
        }

        fn read(&self, _: &str) -> Result<Option<Vec<u8>>, FileError> {
            Ok(None)
        }

        fn create(&self, _: &str, _: &[u8], _: usize) -> Result<((), u64), FileError> {
            Ok(((), 0))
        }

        fn adopt(&self, _: &str) -> Result<(), FileError> {
            Ok(())
        }

        fn reserve(&self, _: &str, _: u64) -> Result<(), FileError> {
            Ok(())
        }

        fn sync_names(&self) -> Result<(), FileError> {
            Ok(())
        }

        fn write_at(&self, (): &(), bytes: &[u8], offset: u64) -> Result<(), FileError> {
            self.refuse(DiskCall::Write { at: offset / in_bytes(1), records: bytes.len() / RECORD })
        }

        fn cut(&self, (): &(), offset: u64) -> Result<(), FileError> {
            self.refuse(DiskCall::Cut { at: offset / in_bytes(1) })
        }

        fn sync(&self, (): &()) -> Result<(), FileError> {
            Ok(())
        }
    }

    #[test]
    fn a_rewrite_is_due_after_the_usual_number_of_records_or_before_the_reserved_space_is_used_up() {
        let end = 100;
        let usual = end + APPENDED_MAX;
        for (room, due) in [
            (0, usual),
            (end + SLACK - 1, usual),
            // Otherwise one rewrite would follow the other.
            (end + SLACK, usual),
            (end + SLACK + 1, end + 1),
            (usual + SLACK - 1, usual - 1),
            (usual + SLACK + 1, usual),
        ] {
            let journal = JournalFile::of(WrittenJournal { file: (), number: NUMBER, end, room });
            assert_eq!(journal.rewrite_at, due, "{room} records");
        }
    }

    #[test]
    fn after_a_write_that_failed_nothing_follows_the_end_mark_and_a_rewrite_is_due_if_it_brings_space() {
        let start = 10;
        for (end, room, is_due) in [
            // The last record of the space that was reserved.
            (49, 50, true),
            (48, 50, false),
            // There was no more space than what is for records during a rewrite, or none at all.
            (17, start + SLACK, false),
            (20, 0, false),
        ] {
            let (disk, rewrite_at) = (RefusingDisk::default(), end + 1);
            let mut journal =
                JournalFile { file: (), number: NUMBER, end, start, room, rewrite_at, next: None };
            assert!(journal.append(&disk, JournalRecord::End).is_err());
            assert_eq!((journal.is_long(), journal.end), (is_due, end), "{end} of {room} records");
            let mut calls = vec![DiskCall::Write { at: end, records: 2 }];
            if end + 1 < room {
                calls.push(DiskCall::Write { at: end, records: 2 });
            } else {
                calls.extend([DiskCall::Write { at: end, records: 1 }, DiskCall::Cut { at: end + 1 }]);
            }
            assert_eq!(*disk.0.lock().unwrap(), calls, "{end} of {room} records");
        }
    }
}
