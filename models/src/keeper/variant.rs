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
}
