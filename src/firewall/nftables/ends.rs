//! When the live grants end: a second knock, maybe of somebody else behind the same address, never shortens one.
//! What is forgotten by a restart costs no more than that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::gate::Grant;
use crate::knock::Door;

/// Ends that have passed are looked for when there are so many, or twice as many as were left the last time.
const PRUNE_MIN: usize = 1024;

#[derive(Default)]
pub(super) struct Ends {
    ends: HashMap<(IpAddr, Door), Duration>,
    left: usize,
}

impl Ends {
    /// How long a grant lasts that is made at `now`: its own time, or what is left of a longer one.
    pub(super) fn lasting(&self, grant: &Grant, now: Duration) -> Duration {
        let end = self.ends.get(&(grant.address(), grant.door())).copied().unwrap_or_default();
        grant.duration().max(end.saturating_sub(now))
    }

    /// Notes what has been granted at `now`.
    pub(super) fn note(&mut self, grants: &[(&Grant, Duration)], now: Duration) {
        if self.ends.len() > self.left.saturating_mul(2).max(PRUNE_MIN) {
            self.ends.retain(|_, end| *end > now);
            self.left = self.ends.len();
        }
        for (grant, duration) in grants {
            self.ends.insert((grant.address(), grant.door()), now.saturating_add(*duration));
        }
    }
}
