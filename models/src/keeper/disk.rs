//! The state directory: `src/state/journal_file.rs`, `src/state/lease.rs` and `src/state/disk.rs`. What is written is
//! visible immediately, and survives the process. Only what has been synced is certain to survive a power loss: of names,
//! records and pages that have not, any can be lost and any kept.

use super::memory::Memory;
use super::variant::Variant;
use super::{KNOCKS, Losses, Time};

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
    /// What the pages of the current file contain if they are lost, unless they are synced: those of the version before
    /// the previous one, whose space is used again. Only in variants that do not sync.
    pub(super) stale: Option<Option<T>>,
    /// The content of that space, in the same variants.
    reserve: Option<T>,
    /// Whether the current file is overwritten, in the variant that does.
    is_in_place: bool,
}

/// What a power loss does to the pages of a file that are not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pages {
    /// All are on disk.
    Kept,
    /// None is.
    Lost,
    /// Some are, which is not a file that was ever written.
    Mixed,
}

/// A journal.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Journal {
    /// The memory with which it was written.
    pub(super) base: Memory,
    pub(super) appended: [Appended; KNOCKS],
    /// Whether a clean stop has appended a mark, in the variant that does.
    pub(super) mark: Appended,
    /// Whether the last write was incomplete.
    pub(super) is_torn: bool,
    /// Whether its checksums are wrong.
    pub(super) is_damaged: bool,
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
    /// Whether its checksum is wrong.
    pub(super) is_damaged: bool,
}

impl<T: Copy> File<T> {
    pub(super) const MISSING: Self =
        Self { current: None, previous: None, stale: None, reserve: None, is_in_place: false };

    /// `Disk::create` and `Disk::adopt`: the content is synced, unless the variant does not. The rename is not.
    pub(super) fn adopt(&mut self, file: T, is_unsynced: bool) {
        if is_unsynced {
            self.stale = Some(self.reserve);
            self.reserve = self.current;
        }
        self.previous = self.previous.or(Some(self.current));
        self.current = Some(file);
    }

    /// Overwrites the file, for the variant that does.
    pub(super) fn overwrite(&mut self, file: T) {
        self.stale = Some(self.stale.unwrap_or(self.current));
        self.current = Some(file);
        self.is_in_place = true;
    }

    /// `Disk::sync_names`.
    pub(super) fn sync_name(&mut self) {
        self.previous = None;
        if self.is_in_place {
            self.stale = None;
        }
    }

    /// False if there is less to lose.
    fn lose(&mut self, name: bool, pages: Pages, damage: fn(&mut T)) -> bool {
        if name && self.previous.is_none() || pages != Pages::Kept && (name || self.stale.is_none()) {
            return false;
        }
        if name {
            self.current = self.previous.take().unwrap_or(self.current);
        }
        match (pages, self.stale.flatten()) {
            (Pages::Lost, Some(stale)) => self.current = Some(stale),
            // Zeros are not a file, either.
            (Pages::Lost, None) | (Pages::Mixed, _) => self.current.iter_mut().for_each(damage),
            (Pages::Kept, _) => {}
        }
        *self = Self { current: self.current, ..Self::MISSING };
        true
    }
}

impl Journal {
    pub(super) const fn new(base: Memory) -> Self {
        Self { base, appended: [Appended::No; KNOCKS], mark: Appended::No, is_torn: false, is_damaged: false }
    }

    /// `journal::read`.
    pub(super) fn read(&self) -> Option<Memory> {
        let mut memory = self.base;
        for knock in (0..KNOCKS).filter(|knock| self.appended[*knock] != Appended::No) {
            memory.restore(knock);
        }
        (!self.is_damaged).then_some(memory)
    }

    /// Loses the records, and the mark, of which each bit of `lost` stands for one. False if there is less to lose, or if
    /// only the last ones can be lost and these are others.
    fn lose(&mut self, lost: u8, losses: Losses) -> bool {
        let [first, second] = &mut self.appended;
        let mut is_possible = true;
        for (place, appended) in [first, second, &mut self.mark].into_iter().enumerate() {
            let is_lost = lost & 1 << place != 0;
            is_possible &= !is_lost || *appended == Appended::Unsynced;
            *appended = match appended {
                Appended::Unsynced if is_lost => Appended::No,
                Appended::No => Appended::No,
                _ => Appended::Synced,
            };
        }
        // The mark is the last one. If it is kept, so are the records.
        let keeps_order = self.mark == Appended::No || lost == 0;
        is_possible && (losses == Losses::Any || keeps_order)
    }
}

impl Disk {
    pub(super) fn sync_names(&mut self) {
        self.journal.sync_name();
        self.lease.sync_name();
    }

    /// Loses the power, and with it some of what is not synced. False if there is less to lose.
    pub(super) fn lose_power(&mut self, lost: Lost, losses: Losses, variant: Variant) -> bool {
        let Lost { journal, lease, records, journal_pages, lease_pages } = lost;
        let is_possible = self.journal.lose(journal, journal_pages, |file| file.is_damaged = true)
            && self.lease.lose(lease, lease_pages, |file| file.is_damaged = true);
        if !is_possible {
            return false;
        }
        if let Some(file) = &mut self.journal.current {
            if !file.lose(records, losses) {
                return false;
            }
        } else if records != 0 {
            return false;
        }
        if let Some(file) = &mut self.lease.current {
            file.is_of_this_boot = false;
            // The next start does not read the journal: it does not matter what is in it.
            if !file.is_clean && !variant.reads_after_loss() {
                self.journal.current = self.journal.current.map(|_| Journal::new(Memory::new(0)));
            }
        }
        true
    }
}

/// What is lost with the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lost {
    /// The new name of the journal.
    pub journal: bool,
    /// The new name of the lease.
    pub lease: bool,
    /// The records of the journal that are not synced, of which each bit stands for one.
    pub records: u8,
    /// The pages of the journal, where its content is not synced.
    pub journal_pages: Pages,
    /// The pages of the lease.
    pub lease_pages: Pages,
}

impl Lost {
    /// Everything that a power loss can do to this disk, and some that it cannot.
    pub(super) fn all(disk: &Disk, variant: Variant) -> Vec<Self> {
        let pages = |is_unsynced: bool| {
            let all = [Pages::Kept, Pages::Lost, Pages::Mixed];
            all.into_iter().take(if is_unsynced { 3 } else { 1 })
        };
        let bits = KNOCKS + usize::from(variant == Variant::MarkInsteadOfSync);
        let mut all = Vec::new();
        for journal_pages in pages(disk.journal.stale.is_some()) {
            for lease_pages in pages(disk.lease.stale.is_some()) {
                for records in 0..1 << bits {
                    for (journal, lease) in [(false, false), (false, true), (true, false), (true, true)] {
                        all.push(Self { journal, lease, records, journal_pages, lease_pages });
                    }
                }
            }
        }
        all
    }
}
