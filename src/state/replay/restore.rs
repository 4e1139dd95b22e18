//! Reads the replay memory back from its files at a start, and repairs them at a reset.

use std::time::Duration;

use super::{LEASE, LEASE_AHEAD, ReplayState};
use crate::os::clock;
use crate::state::disk::Disk;
use crate::state::error::StateError;
use crate::state::journal::{self, JournalContent};
use crate::state::journal_file::JOURNAL;
use crate::state::lease::{Lease, LeaseLimit};
use spa_knock_core::auth::ReplayMemory;
use spa_knock_core::knock::{Now, Timestamp};

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

impl<D: Disk> ReplayState<D> {
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
}

/// What the files on `disk` say is to be refused. Changes nothing.
///
/// # Errors
/// When a daemon could not start with them.
pub(in crate::state) fn remembered(
    disk: &impl Disk,
    boot: &str,
    now: Timestamp,
) -> Result<ReplayMemory, StateError> {
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
pub(in crate::state) fn floor_ahead(
    memory: &ReplayMemory,
    now: Timestamp,
    window: Duration,
) -> Option<Timestamp> {
    let floor = memory.highest_floor();
    (floor > now.plus(window).plus(LEASE_AHEAD)).then_some(floor)
}

/// What there is to report of such a floor.
pub(in crate::state) fn ahead(floor: Timestamp) -> String {
    format!(
        "replay state: some knocks are refused until {}: the clock was ahead when the state was written\nhint: if the clock is right now, stop the daemon and run spa-knockd state reset --forget",
        clock::rfc3339(floor)
    )
}
