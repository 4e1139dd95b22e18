//! Restores the replay memory from its files at startup, and repairs the files in a reset.

use std::time::Duration;

use super::{LEASE, LEASE_AHEAD, ReplayState};
use crate::console::own_command;
use crate::os::clock;
use crate::state::disk::Disk;
use crate::state::error::StateError;
use crate::state::journal::{self, JournalContent};
use crate::state::journal_file::JOURNAL;
use crate::state::lease::{Lease, LeaseLimit};
use spa_knock_core::auth::{ReplayDomain, ReplayMemory};
use spa_knock_core::knock::{Now, Timestamp};

/// What a reset does with floors that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floors {
    /// Keeps them, even if they are ahead of the clock.
    Keep,
    /// Deletes them: a knock that was accepted while the clock was ahead can be accepted again when its time comes.
    Forget,
}

/// The result of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reset {
    /// No knock with a timestamp at or before this time is accepted.
    pub(crate) floor: Timestamp,
    /// Whether the floor is further ahead than a reset requires.
    pub(crate) is_ahead: bool,
    /// Whether the old floors could not be read.
    pub(crate) lost: bool,
}

impl Reset {
    /// What the administrator must know about it.
    pub(in crate::state) fn notices(self, floors: Floors) -> Vec<String> {
        let mut notices = Vec::new();
        if floors == Floors::Forget {
            notices.push(
                "warning: the old floors were deleted: a knock that was accepted while the clock was ahead can be accepted again\n\
                 hint: create new keys for clients that knocked during that time".to_owned(),
            );
        } else if self.lost {
            notices.push(
                "warning: the old floors could not be read\nhint: create new keys for clients whose clocks may have been ahead".to_owned(),
            );
        }
        let floor = clock::rfc3339(self.floor);
        notices.push(format!("replay state: reset; accepting only knocks with a timestamp after {floor}"));
        if self.is_ahead {
            notices.push(format!(
                "warning: this time is further ahead than the window, because the clock was ahead when the state was written\n\
                 hint: if the clock is correct now, run {} to accept knocks after the window",
                own_command("state reset --forget")
            ));
        }
        notices
    }
}

impl<D: Disk> ReplayState<D> {
    /// Raises every floor to at least `now` + `window`: accepted knocks remain refused, whatever is damaged.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub(crate) fn reset(
        disk: D,
        boot: String,
        now: Now,
        window: Duration,
        floors: Floors,
    ) -> Result<Reset, StateError> {
        // Files that cannot be read are ignored, because this function replaces them.
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
            raise_floors(&mut memory, &lease);
        }
        memory.raise_floors(now.wall.plus(window));
        let floor = memory.highest_floor();
        let is_ahead = floor_ahead(&memory, now.wall, window).is_some();
        Self::initialize(disk, boot, &memory, now, window)?.close()?;
        Ok(Reset { floor, is_ahead, lost })
    }
}

/// Restores the replay memory from the files on `disk`. Changes nothing.
///
/// # Errors
/// If a daemon could not start with these files.
pub(in crate::state) fn remembered(
    disk: &impl Disk,
    boot: &str,
    now: Timestamp,
) -> Result<ReplayMemory, StateError> {
    let damaged = |name, why| StateError::Damaged(disk.place(name), why);
    let content = disk.read(JOURNAL)?.as_deref().map(journal::read);
    let (content, lease) = match (content, disk.read(LEASE)?) {
        (None | Some(JournalContent::Empty), None) => return Ok(ReplayMemory::new(now)),
        // A first start that crashed before writing its lease: it had not accepted any knock yet.
        (Some(JournalContent::Whole(mut memory)), None) if memory.is_empty() => {
            memory.restore_start(now, Timestamp::default());
            return Ok(memory);
        }
        (Some(_), None) => return Err(damaged(LEASE, "missing, although there is a journal")),
        (None, Some(_)) => return Err(damaged(JOURNAL, "missing, although there is a lease")),
        (Some(content), Some(lease)) => (content, lease),
    };
    let lease = Lease::read(&lease).ok_or_else(|| damaged(LEASE, "damaged"))?;
    let until = clock::rfc3339(lease.until);
    if lease.boot != boot && lease.end == LeaseLimit::Open {
        log::warn!("replay state: power was lost; accepting only knocks with a timestamp after {until}");
        let mut memory = ReplayMemory::new(lease.until);
        raise_floors(&mut memory, &lease);
        // No knock is accepted for an address, so what the disk has of them is used.
        if let JournalContent::Whole(before) | JournalContent::Torn(before) = content {
            before.sources().iter().for_each(|(key, source)| memory.sources_mut().store(key, source));
        }
        return Ok(memory);
    }
    match content {
        JournalContent::Whole(memory) => Ok(memory),
        JournalContent::Torn(mut memory) => {
            log::warn!(
                "replay state: the last write was incomplete; accepting only knocks with a timestamp after {until}"
            );
            raise_floors(&mut memory, &lease);
            Ok(memory)
        }
        JournalContent::Empty | JournalContent::Damaged => Err(damaged(JOURNAL, "damaged")),
    }
}

/// Refuses what can have been accepted under a lease.
fn raise_floors(memory: &mut ReplayMemory, lease: &Lease) {
    memory.raise_floors(lease.until);
    for (key, until) in &lease.ahead {
        for domain in [ReplayDomain::Datagrams, ReplayDomain::Ports, ReplayDomain::Codes] {
            memory.restore_floor(*key, domain, *until, *until);
        }
    }
}

/// The highest floor, if it is further ahead than a correct clock, a power loss or a reset can cause.
pub(in crate::state) fn floor_ahead(
    memory: &ReplayMemory,
    now: Timestamp,
    window: Duration,
) -> Option<Timestamp> {
    let floor = memory.highest_floor();
    (floor > now.plus(window).plus(LEASE_AHEAD)).then_some(floor)
}

/// The warning about such a floor.
pub(in crate::state) fn ahead(floor: Timestamp) -> String {
    format!(
        "replay state: some knocks are refused until {}, because the clock was ahead when the state was written\nhint: if the clock is correct now, stop the daemon and run {}",
        clock::rfc3339(floor),
        own_command("state reset --forget")
    )
}
