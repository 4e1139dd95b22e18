//! Who still knocks by plain sequences: each address and how often, over the last 24 hours. It lives as long as the
//! daemon and has bounds, as sources can be made up.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use spa_knock_core::knock::Steady;

const HOUR: u64 = 3_600;
/// With the one that has begun.
const HOURS: u64 = 24;
/// Addresses of one hour; what others do is only counted.
const ADDRESSES_MAX: usize = 512;

/// The hours in which somebody came, the last one behind.
#[derive(Debug)]
pub(super) struct UsageStats {
    /// When the first hour began.
    begun: Steady,
    hours: VecDeque<Hour>,
}

#[derive(Debug, Default)]
struct Hour {
    number: u64,
    addresses: BTreeMap<IpAddr, u64>,
    others: u64,
}

/// What there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsageCount {
    /// Addresses and how often each opened a door, the busiest first.
    pub(super) addresses: Vec<(IpAddr, u64)>,
    /// How often others did, for whom there was no room.
    pub(super) others: u64,
}

impl UsageStats {
    /// Nobody yet. The first hour begins.
    pub(super) const fn new(now: Steady) -> Self {
        Self { begun: now, hours: VecDeque::new() }
    }

    /// Somebody opened a door at `now`.
    pub(super) fn note(&mut self, address: IpAddr, now: Steady) {
        let number = self.forget(now);
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

    /// Who came in the last 24 hours.
    pub(super) fn count(&mut self, now: Steady) -> UsageCount {
        self.forget(now);
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

    /// What is older than a day goes; the number of this hour.
    fn forget(&mut self, now: Steady) -> u64 {
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
    fn who_came_in_the_last_24_hours_is_counted_the_busiest_first() {
        let mut census = UsageStats::new(at(Duration::ZERO));
        for (who, hour) in [(1, 0), (2, 1), (2, 5), (3, 23)] {
            census.note(address(who), hours(hour));
        }
        let counted = |census: &mut UsageStats, hour| census.count(hours(hour)).addresses;
        assert_eq!(counted(&mut census, 23), [(address(2), 2), (address(1), 1), (address(3), 1)]);
        assert_eq!(counted(&mut census, 24), [(address(2), 2), (address(3), 1)]);
        assert_eq!(counted(&mut census, 25), [(address(2), 1), (address(3), 1)]);
        assert_eq!(counted(&mut census, 1_000), []);
    }

    #[test]
    fn a_crowd_of_made_up_addresses_takes_no_more_than_its_room() {
        let mut census = UsageStats::new(at(Duration::ZERO));
        for hour in 0..100 {
            (0..2_000).for_each(|who| census.note(address(hour * 2_000 + who), hours(hour.into())));
        }
        let kept: usize = census.hours.iter().map(|hour| hour.addresses.len()).sum();
        assert_eq!((census.hours.len(), kept), (24, 24 * ADDRESSES_MAX));
        assert_eq!(census.count(hours(99)).others, 24 * (2_000 - 512));
    }
}
