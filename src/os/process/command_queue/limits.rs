//! How many commands may run and wait at a time, in all and for one owner.

/// How many commands may run and wait: in all, and for one owner, so that no owner can keep the others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Commands that run.
    pub running: QueueLimit,
    /// Commands that wait for their turn.
    pub waiting: QueueLimit,
    /// Undo tasks that run. They have slots of their own and do not wait for commands.
    pub undoing: QueueLimit,
}

/// A limit in all and for one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimit {
    /// In all.
    pub total: usize,
    /// For one owner.
    pub each: usize,
}

impl QueueLimit {
    /// A limit in all and for one owner.
    #[must_use]
    pub const fn new(total: usize, each: usize) -> Self {
        Self { total, each }
    }
}

impl Room {
    /// So many slots that all owners share, who wait and undo in their own turn.
    #[must_use]
    pub const fn shared(running: usize) -> Self {
        Self {
            running: QueueLimit::new(running, running),
            waiting: QueueLimit::new(64, 64),
            undoing: QueueLimit::new(64, 16),
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self {
            running: QueueLimit::new(32, 4),
            waiting: QueueLimit::new(512, 16),
            undoing: QueueLimit::new(64, 4),
        }
    }
}
