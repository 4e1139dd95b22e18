//! Keepers in which one rule is broken. Each must be found wrong.

/// What is wrong with a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Sound,
    /// A knock acts before it is recorded.
    ActsBeforeRecord,
    /// A knock beyond the lease does not wait.
    LeaseNotAwaited,
    /// A renewed lease is in force before it is on disk.
    LeaseInForceEarly,
    /// A lease that is lowered, because the clock was ahead, ignores the knocks that it covered.
    LoweredLeaseForgets,
    /// After a power loss, the journal is read, and no floor is raised.
    FloorNotRaised,
    /// A clean stop does not sync the journal before it marks the lease as clean.
    CleanBeforeSync,
    /// A start writes the lease before the journal.
    LeaseBeforeJournal,
    /// Knocks are accepted before a start has written the lease.
    ServesBeforeLease,
    /// A rewritten journal lacks what was accepted while it was written.
    RewriteForgets,
    /// A clean stop appends a mark to the journal instead of syncing it. The next start takes the mark as a proof that
    /// everything before it is there.
    MarkInsteadOfSync,
    /// A new version of the lease gets its name before its content is synced.
    LeaseRenamedUnsynced,
    /// A new version of the journal gets its name before its content is synced.
    JournalRenamedUnsynced,
    /// The lease is overwritten in place.
    LeaseInPlace,
    /// After a power loss, the floor is derived from the clock, not from the lease.
    FloorByClock,
    /// A start leaves the lease of a clean stop as it is.
    CleanMarkKept,
}

impl Variant {
    /// Whether the content of this file is not synced before it gets its name.
    pub(super) fn leaves_unsynced(self, is_lease: bool) -> bool {
        let unsynced: &[Self] = if is_lease {
            &[Self::LeaseRenamedUnsynced, Self::LeaseInPlace]
        } else {
            &[Self::JournalRenamedUnsynced]
        };
        unsynced.contains(&self)
    }

    /// Whether a start can read the journal although the power was lost.
    pub(super) fn reads_after_loss(self) -> bool {
        [Self::FloorNotRaised, Self::LeaseBeforeJournal].contains(&self)
    }
}
