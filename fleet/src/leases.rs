//! Leases for grants, created in advance, so that no claim waits for one. Leases carry no safety: one that ends early
//! closes early.
//!
//! Grants of the same length that are made within 10 s share a lease. It is created for 10 s longer than they last, so that
//! each has all of its time; members subtract these 10 s again ([`crate::grants`]).

use std::collections::BTreeMap;
use std::time::Duration;

use spa_knock_core::knock::Steady;

/// For how long a lease is given to new grants, and how much longer than these it lasts.
pub const SHARED_FOR: Duration = Duration::from_secs(10);
/// A lease is replaced at this age, with time for several tries.
const REPLACED_AFTER: Duration = Duration::from_secs(5);
/// Lengths for which no grant was made for this long get no new lease.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// So many lengths have a lease in advance; clients may ask for any number of seconds.
const MOST_LENGTHS: usize = 32;

/// The leases that are ready, by the seconds of their grants.
#[derive(Debug, Default)]
pub struct LeasePool {
    ready: BTreeMap<u32, ReadyLease>,
}

#[derive(Debug, Clone, Copy)]
struct ReadyLease {
    lease: u64,
    created: Steady,
    used: Steady,
}

/// A lease that must be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedLease {
    /// The seconds of the grants that it is for.
    pub seconds: u32,
    /// The time to live to ask for.
    pub ttl: u64,
}

impl LeasePool {
    /// The lease for a grant of this length, if one is ready. Otherwise create [`LeasePool::wanted`] first.
    pub fn take(&mut self, seconds: u32, now: Steady) -> Option<u64> {
        let ready = self.ready.get_mut(&seconds).filter(|ready| is_young(ready, now))?;
        ready.used = now;
        Some(ready.lease)
    }

    /// What to ask the store for, for grants of this length.
    #[must_use]
    pub fn wanted(seconds: u32) -> WantedLease {
        WantedLease { seconds, ttl: u64::from(seconds).saturating_add(SHARED_FOR.as_secs()) }
    }

    /// Adds a lease. `asked` is the time *before* the request, because the lease may have begun then.
    pub fn insert(&mut self, seconds: u32, lease: u64, asked: Steady) {
        let used = self.ready.get(&seconds).map_or(asked, |ready| ready.used);
        self.ready.insert(seconds, ReadyLease { lease, created: asked, used });
        while self.ready.len() > MOST_LENGTHS {
            let oldest = self.ready.iter().min_by_key(|(_, ready)| ready.used).map(|(seconds, _)| *seconds);
            oldest.and_then(|seconds| self.ready.remove(&seconds));
        }
    }

    /// Removes a lease that the store does not know any more.
    pub fn forget(&mut self, lease: u64) {
        self.ready.retain(|_, ready| ready.lease != lease);
    }

    /// The leases to replace now, before they are too old to be used. Run it every second.
    pub fn run_due(&mut self, now: Steady) -> Vec<WantedLease> {
        self.ready.retain(|_, ready| now.since(ready.used) < FORGOTTEN_AFTER);
        let due = |ready: &ReadyLease| now.since(ready.created) >= REPLACED_AFTER;
        self.ready.iter().filter(|(_, ready)| due(ready)).map(|(seconds, _)| Self::wanted(*seconds)).collect()
    }
}

fn is_young(ready: &ReadyLease, now: Steady) -> bool {
    // A second less, for the request that uses it.
    now.since(ready.created) < SHARED_FOR.saturating_sub(Duration::from_secs(1))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make times")]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn a_lease_is_shared_for_as_long_as_each_grant_has_all_of_its_time() {
        let mut pool = LeasePool::default();
        assert_eq!(pool.take(30, at(0)), None);
        assert_eq!(LeasePool::wanted(30), WantedLease { seconds: 30, ttl: 40 });
        pool.insert(30, 7, at(0));
        assert_eq!((pool.take(30, at(8)), pool.take(60, at(8)), pool.take(30, at(9))), (Some(7), None, None));
        pool.insert(30, 8, at(9));
        assert_eq!(pool.take(30, at(9)), Some(8));
        pool.forget(8);
        assert_eq!(pool.take(30, at(9)), None);
    }

    #[test]
    fn leases_are_replaced_in_time_and_forgotten_without_use() {
        let mut pool = LeasePool::default();
        pool.insert(30, 7, at(0));
        assert_eq!(pool.run_due(at(4)), []);
        assert_eq!(pool.run_due(at(5)), [LeasePool::wanted(30)]);
        pool.insert(30, 8, at(5));
        assert_eq!(pool.run_due(at(6)), []);
        assert_eq!(pool.run_due(at(299)), [LeasePool::wanted(30)]);
        assert_eq!(pool.run_due(at(300)), []);
    }

    #[test]
    fn the_pool_is_bounded() {
        let mut pool = LeasePool::default();
        for seconds in 0..100 {
            pool.insert(seconds, 1, at(u64::from(seconds)));
        }
        assert_eq!(
            (pool.ready.len(), pool.ready.contains_key(&99), pool.ready.contains_key(&0)),
            (MOST_LENGTHS, true, false)
        );
    }
}
