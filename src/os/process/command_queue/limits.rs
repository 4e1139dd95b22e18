//! Limits for the numbers of running and waiting commands, in total and for one owner.

/// Limits for running and waiting commands: in total, and for one owner, so that no owner can block the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Running commands.
    pub running: QueueLimit,
    /// Waiting commands.
    pub waiting: QueueLimit,
    /// Running undo tasks. They have slots of their own and do not wait for commands.
    pub undo: QueueLimit,
}

/// A limit in total and for one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimit {
    /// In total.
    pub total: usize,
    /// For one owner.
    pub each: usize,
}

impl QueueLimit {
    /// Creates a limit in total and for one owner.
    #[must_use]
    pub const fn new(total: usize, each: usize) -> Self {
        Self { total, each }
    }
}

impl QueueLimits {
    /// Limits with `running` slots that all owners share.
    #[must_use]
    pub const fn shared(running: usize) -> Self {
        Self {
            running: QueueLimit::new(running, running),
            waiting: QueueLimit::new(64, 64),
            undo: QueueLimit::new(64, 16),
        }
    }
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            running: QueueLimit::new(32, 4),
            waiting: QueueLimit::new(512, 16),
            undo: QueueLimit::new(64, 4),
        }
    }
}
