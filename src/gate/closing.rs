//! How ports are kept closed that only a grant opens. Data only.

use std::time::Duration;

use crate::knock::Prefix;

/// Whose rules close the protected ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Ours.
    #[default]
    Guard,
    /// The admin's, which name our sets.
    Set,
}

/// What happens when the daemon has been dead for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failsafe {
    /// For how long.
    pub after: Duration,
    /// Who is let in to the protected ports then.
    pub allow: Vec<Prefix>,
}
