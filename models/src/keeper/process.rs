//! The process: what it holds in memory, and how it starts.

use super::disk::{Appended, Disk, Lease};
use super::memory::Memory;
use super::variant::Variant;
use super::{KNOCKS, LEASE_AHEAD, Time, WINDOW};

/// A running daemon.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) stage: Stage,
    pub(super) memory: Memory,
    /// The lease in force: timestamps up to this are accepted without waiting.
    pub(super) until: Time,
    pub(super) ahead: Option<Time>,
    pub(super) renewal: Renewal,
    /// A rewrite of the journal: the memory with which it began, and the knocks recorded since.
    pub(super) rewrite: Option<(Memory, [bool; KNOCKS])>,
    pub(super) knocks: [Progress; KNOCKS],
}

/// The steps of a start and of a clean stop. Each is done when the next one is reached.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) enum Stage {
    JournalRead,
    JournalNamed,
    JournalSynced,
    LeaseNamed,
    Serving,
    Stopping,
    RecordsSynced,
    NamesSynced,
    CleanNamed,
}

/// A renewal of the lease by the worker thread.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) enum Renewal {
    None,
    /// The next version has its name.
    Named(Time, Option<Time>),
    /// The name is synced, but the process does not know yet.
    Synced(Time, Option<Time>),
}

/// What has become of a knock that the memory has accepted.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is left to do, or it has not been received.
    Idle,
    /// Waits for a lease.
    Waiting,
    /// In the journal, or about to be, if it acts first.
    Ready,
    /// Has acted and is not recorded.
    Unrecorded,
}

impl Process {
    /// `ReplayState::open`: reads the files. None if the start is refused.
    pub(super) fn start(disk: &Disk, wall: Time, variant: Variant) -> Option<Self> {
        let memory = remembered(disk, wall, variant)?;
        let usual = usual_lease(wall);
        let ahead = Some(memory.high).filter(|high| *high > usual);
        Some(Self {
            stage: Stage::JournalRead,
            memory,
            until: lease_wanted(&memory, ahead, wall),
            ahead,
            renewal: Renewal::None,
            rewrite: None,
            knocks: [Progress::Idle; KNOCKS],
        })
    }

    pub(super) const fn lease(&self, is_clean: bool) -> Lease {
        Lease { until: self.until, ahead: self.ahead, is_of_this_boot: true, is_clean, is_damaged: false }
    }

    /// `ReplayState::renew_lease`: the lease to write, if one is due. A lower one is in force immediately.
    pub(super) fn renew(&mut self, wall: Time, variant: Variant) -> Option<(Time, Option<Time>)> {
        let usual = usual_lease(wall);
        let waiting = (0..KNOCKS).filter(|knock| self.knocks[*knock] == Progress::Waiting);
        let missed = waiting.map(|knock| super::TIMESTAMPS[knock]).filter(|time| *time > self.until).max();
        let (ahead, wanted) = if variant == Variant::LoweredLeaseForgets {
            (None, usual)
        } else {
            let ahead = Some(self.memory.high).filter(|high| *high > usual).max(self.ahead);
            (ahead, lease_wanted(&self.memory, ahead, wall))
        };
        let wanted = missed.map_or(wanted, |time| wanted.max(time + LEASE_AHEAD));
        let ahead = ahead.filter(|until| *until > wanted);
        let is_short = self.until < wall + WINDOW + super::LEASE_MIN;
        let is_long = self.until > wanted + super::LEASE_SLACK;
        if !(is_short || is_long || missed.is_some()) {
            return None;
        }
        self.until = self.until.min(wanted);
        if variant == Variant::LeaseInForceEarly {
            self.until = wanted;
        }
        Some((wanted, ahead))
    }
}

/// `restore::remembered`.
fn remembered(disk: &Disk, wall: Time, variant: Variant) -> Option<Memory> {
    match (disk.journal.current, disk.lease.current) {
        (None, None) => Some(Memory::new(wall)),
        (Some(journal), None) => {
            let mut memory = journal.read()?;
            let is_empty = memory == Memory::new(memory.common);
            memory.raise_all(wall);
            is_empty.then_some(memory)
        }
        (None, Some(_)) => None,
        (Some(journal), Some(lease)) => {
            if lease.is_damaged {
                return None;
            }
            let is_marked = variant != Variant::MarkInsteadOfSync || journal.mark != Appended::No;
            let is_kept = lease.is_clean && is_marked;
            let is_lost = !(lease.is_of_this_boot || is_kept);
            if is_lost && variant == Variant::FloorByClock {
                return Some(Memory::new(wall + WINDOW));
            }
            if is_lost && variant != Variant::FloorNotRaised {
                let mut memory = Memory::new(lease.until);
                raise_floors(&mut memory, &lease);
                return Some(memory);
            }
            let mut memory = journal.read()?;
            if journal.is_torn {
                raise_floors(&mut memory, &lease);
            }
            Some(memory)
        }
    }
}

fn raise_floors(memory: &mut Memory, lease: &Lease) {
    memory.raise_all(lease.until);
    if let Some(ahead) = lease.ahead {
        memory.raise(ahead);
    }
}

/// `replay::lease_wanted`.
fn lease_wanted(memory: &Memory, ahead: Option<Time>, wall: Time) -> Time {
    let common = memory.common.max(usual_lease(wall));
    if ahead.is_none_or(|until| until < memory.high) { common.max(memory.high) } else { common }
}

/// `replay::usual_lease`.
const fn usual_lease(wall: Time) -> Time {
    wall + WINDOW + LEASE_AHEAD
}
