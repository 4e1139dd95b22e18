//! Fleets in which one rule is broken. Each must be found wrong.

/// What is wrong with a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Sound,
    /// The store process reports every claim as won.
    AlwaysWon,
    /// Deleting old claims does not raise the floor.
    GarbageWithoutFloor,
    /// The floor is raised by the highest clock of all members, instead of the lowest of those that agree.
    FloorByHighestClock,
    /// With two members, the median of the clocks is the higher one, instead of the lower one.
    MedianIsTheHigher,
    /// A member acts if no response arrives in time.
    ActsOnUnknown,
    /// A claim is not compared with the floor.
    ClaimWithoutFloor,
    /// A restored store is accepted without raising the floor.
    AcceptsWithoutFloor,
    /// A restored store is accepted with a floor from the clock of one member.
    AcceptsByOwnClock,
    /// An attempt that began before a restored store was accepted goes on.
    AcceptKeepsAttempts,
    /// A restored store is recognized only by a revision that is lower than the highest one seen.
    RestoreSeenByRevision,
    /// A member that has lost its memory takes the store that it finds for its own.
    ForgetsStore,
    /// Attempts are numbered from the start of the process, and the boot id does not change.
    AttemptsRepeat,
    /// The claim's transaction writes the grant, which all members open.
    GrantWithClaim,
}
