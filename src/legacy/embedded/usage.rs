//! Which addresses still use knock sequences, and how often, over the last 24 hours. Kept in memory only, and bounded,
//! because sources can be spoofed.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::control::status::LegacyUser;
use spa_knock_core::knock::Steady;

/// How many addresses the status lists.
const USERS_SHOWN: usize = 10;
const HOUR: u64 = 3_600;
/// Including the current hour.
const HOURS: u64 = 24;
/// Most addresses per hour. Beyond this, openings are only counted.
const ADDRESSES_MAX: usize = 512;

/// The hours in which doors were opened, the latest last.
#[derive(Debug)]
pub(super) struct UsageStats {
    /// Start of the first hour.
    begun: Steady,
    hours: VecDeque<Hour>,
}

#[derive(Debug, Default)]
struct Hour {
    number: u64,
    addresses: BTreeMap<IpAddr, u64>,
    others: u64,
}

/// The totals over the last 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsageCount {
    /// Addresses and how often each opened a door, the busiest first.
    pub(super) addresses: Vec<(IpAddr, u64)>,
    /// Openings by addresses that were not stored because the table was full.
    pub(super) others: u64,
}

/// What the status shows about the addresses that still use a legacy protocol.
pub(super) struct BusiestUsers {
    /// How many there are.
    pub(super) addresses: usize,
    /// The busiest of them.
    pub(super) users: Vec<LegacyUser>,
    /// Openings by addresses that were not stored because the table was full.
    pub(super) other_openings: u64,
}

impl UsageStats {
    /// Empty. The first hour begins at `now`.
    pub(super) const fn new(now: Steady) -> Self {
        Self { begun: now, hours: VecDeque::new() }
    }

    /// Records that `address` opened a door at `now`.
    pub(super) fn record(&mut self, address: IpAddr, now: Steady) {
        let number = self.expire(now);
        if self.hours.back().is_none_or(|hour| hour.number != number) {
            self.hours.push_back(Hour { number, ..Hour::default() });
        }
        let Some(hour) = self.hours.back_mut() else { return };
        let is_full = hour.addresses.len() >= ADDRESSES_MAX;
        let count = match hour.addresses.get_mut(&address) {
            Some(count) => count,
            None if is_full => &mut hour.others,
            None => hour.addresses.entry(address).or_default(),
        };
        *count = count.saturating_add(1);
    }

    /// The totals over the last 24 hours.
    pub(super) fn count(&mut self, now: Steady) -> UsageCount {
        self.expire(now);
        let mut all: BTreeMap<IpAddr, u64> = BTreeMap::new();
        let mut others = 0_u64;
        for hour in &self.hours {
            others = others.saturating_add(hour.others);
            for (&address, &count) in &hour.addresses {
                let sum = all.entry(address).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let mut addresses: Vec<_> = all.into_iter().collect();
        addresses.sort_by_key(|&(address, count)| (std::cmp::Reverse(count), address));
        UsageCount { addresses, others }
    }

    /// The busiest addresses of the last 24 hours, in the form of the status.
    pub(super) fn busiest(&mut self, now: Steady) -> BusiestUsers {
        let counted = self.count(now);
        let user = |&(address, opened): &(IpAddr, u64)| LegacyUser { address, opened };
        BusiestUsers {
            addresses: counted.addresses.len(),
            users: counted.addresses.iter().take(USERS_SHOWN).map(user).collect(),
            other_openings: counted.others,
        }
    }

    /// Removes hours that are over a day old. Returns the number of the current hour.
    fn expire(&mut self, now: Steady) -> u64 {
        let number = now.since(self.begun).as_secs().checked_div(HOUR).unwrap_or_default();
        while self.hours.front().is_some_and(|hour| hour.number.saturating_add(HOURS) <= number) {
            self.hours.pop_front();
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(time: Duration) -> Steady {
        Steady::from_duration(time)
    }

    fn hours(hours: u64) -> Steady {
        at(Duration::from_secs(hours * HOUR + 7))
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn addresses_of_the_last_24_hours_are_counted_busiest_first() {
        let mut usage = UsageStats::new(at(Duration::ZERO));
        for (number, hour) in [(1, 0), (2, 1), (2, 5), (3, 23)] {
            usage.record(address(number), hours(hour));
        }
        let counted = |usage: &mut UsageStats, hour| usage.count(hours(hour)).addresses;
        assert_eq!(counted(&mut usage, 23), [(address(2), 2), (address(1), 1), (address(3), 1)]);
        assert_eq!(counted(&mut usage, 24), [(address(2), 2), (address(3), 1)]);
        assert_eq!(counted(&mut usage, 25), [(address(2), 1), (address(3), 1)]);
        assert_eq!(counted(&mut usage, 1_000), []);
    }

    #[test]
    fn spoofed_addresses_cannot_exceed_the_limit() {
        let mut usage = UsageStats::new(at(Duration::ZERO));
        for hour in 0..100 {
            (0..2_000).for_each(|number| usage.record(address(hour * 2_000 + number), hours(hour.into())));
        }
        let kept: usize = usage.hours.iter().map(|hour| hour.addresses.len()).sum();
        assert_eq!((usage.hours.len(), kept), (24, 24 * ADDRESSES_MAX));
        assert_eq!(usage.count(hours(99)).others, 24 * (2_000 - 512));
    }
}
