//! The state directory: `src/state/journal_file.rs`, `src/state/lease.rs` and `src/state/disk.rs`. What is written is
//! visible immediately, and survives the process. Only what has been synced is certain to survive a power loss.

use super::memory::Memory;
use super::variant::Variant;
use super::{KNOCKS, Time};

/// The two files.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) journal: File<Journal>,
    pub(super) lease: File<Lease>,
}

/// A file that is replaced by renaming another one to its name.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct File<T> {
    /// The file that has the name; none before the first start.
    pub(super) current: Option<T>,
    /// The file that had the name when names were last synced, if another one has it now.
    pub(super) previous: Option<Option<T>>,
}

/// A journal. The file itself is synced before it gets its name, but not what is appended to it.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Journal {
    /// The memory with which it was written.
    pub(super) base: Memory,
    pub(super) appended: [Appended; KNOCKS],
    /// Whether the last write was incomplete.
    pub(super) is_torn: bool,
}

/// Whether a journal has a record of a knock, besides those with which it was written.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) enum Appended {
    No,
    Unsynced,
    Synced,
}

/// A lease.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) until: Time,
    /// The bound of the key, if it is beyond `until`.
    pub(super) ahead: Option<Time>,
    /// Whether it was written in this boot.
    pub(super) is_of_this_boot: bool,
    pub(super) is_clean: bool,
}

impl<T: Copy> File<T> {
    pub(super) const MISSING: Self = Self { current: None, previous: None };

    /// `Disk::adopt`: the rename is not synced.
    pub(super) fn adopt(&mut self, file: T) {
        self.previous = self.previous.or(Some(self.current));
        self.current = Some(file);
    }

    /// `Disk::sync_names`.
    pub(super) fn sync_name(&mut self) {
        self.previous = None;
    }

    fn lose_name(&mut self) {
        self.current = self.previous.take().unwrap_or(self.current);
    }
}

impl Journal {
    pub(super) const fn new(base: Memory) -> Self {
        Self { base, appended: [Appended::No; KNOCKS], is_torn: false }
    }

    /// `journal::read`.
    pub(super) fn read(&self) -> Memory {
        let mut memory = self.base;
        for knock in (0..KNOCKS).filter(|knock| self.appended[*knock] != Appended::No) {
            memory.restore(knock);
        }
        memory
    }

    fn lose(&mut self, lost: u8) {
        for (knock, appended) in self.appended.iter_mut().enumerate() {
            *appended = match appended {
                Appended::Unsynced if lost & 1 << knock != 0 => Appended::No,
                Appended::No => Appended::No,
                _ => Appended::Synced,
            };
        }
    }
}

impl Disk {
    pub(super) fn sync_names(&mut self) {
        self.journal.sync_name();
        self.lease.sync_name();
    }

    /// Loses the power: with it, perhaps, the new names, and the records that are not synced, of which each bit of
    /// `lost` stands for one. False if there is less to lose.
    pub(super) fn lose_power(&mut self, journal: bool, lease: bool, lost: u8, variant: Variant) -> bool {
        if journal && self.journal.previous.is_none() || lease && self.lease.previous.is_none() {
            return false;
        }
        if journal {
            self.journal.lose_name();
        }
        if lease {
            self.lease.lose_name();
        }
        self.sync_names();
        if let Some(file) = &mut self.journal.current {
            let is_there = |knock: usize| file.appended[knock] == Appended::Unsynced;
            if (0..KNOCKS).any(|knock| lost & 1 << knock != 0 && !is_there(knock)) {
                return false;
            }
            file.lose(lost);
        } else if lost != 0 {
            return false;
        }
        if let Some(file) = &mut self.lease.current {
            file.is_of_this_boot = false;
            // The next start does not read the journal: it does not matter what is in it.
            let is_read = [Variant::FloorNotRaised, Variant::LeaseBeforeJournal].contains(&variant);
            if !file.is_clean && !is_read {
                self.journal.current = self.journal.current.map(|_| Journal::new(Memory::new(0)));
            }
        }
        true
    }
}
