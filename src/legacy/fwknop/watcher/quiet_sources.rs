//! The sources that send little. When there are more possible packets than may be verified, theirs are verified first, so
//! that a flood from a few addresses does not hide the packet of an honest client. A flood with many spoofed sources makes
//! all sources look busy; then chance decides, as it does without this table.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};

use crate::legacy::fwknop::allowance::Allowance;
use spa_knock_core::knock::{Steady, mapped};

/// Number of groups of sources; about 200 KiB.
const GROUPS: usize = 4_096;
/// Possible packets per second, and in a burst, of the sources in one group.
const PACKETS: u32 = 4;
const PACKETS_BURST: u32 = 16;

/// What the sources of each group may still send.
pub(super) struct QuietSources {
    hasher: RandomState,
    groups: Vec<Allowance>,
}

impl QuietSources {
    pub(super) fn new() -> Self {
        let groups = vec![Allowance::new(PACKETS_BURST, PACKETS); GROUPS];
        Self { hasher: RandomState::new(), groups }
    }

    /// Notes a possible packet. Returns whether its source sends little.
    pub(super) fn note(&mut self, source: IpAddr, now: Steady) -> bool {
        let hash = self.hasher.hash_one(network(source));
        let groups = u64::try_from(self.groups.len()).unwrap_or(1).max(1);
        let group = hash.checked_rem(groups).and_then(|group| usize::try_from(group).ok());
        group.and_then(|group| self.groups.get_mut(group)).is_some_and(|group| group.take(1, now))
    }
}

/// One IPv6 client can send from any address of its network.
fn network(source: IpAddr) -> Ipv6Addr {
    match source {
        IpAddr::V4(_) => mapped(source),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_that_sends_much_is_not_quiet_until_it_pauses() {
        let at = |ms| Steady::from_duration(Duration::from_millis(ms));
        let mut sources = QuietSources::new();
        let mut passed = |source: &str, times: std::ops::Range<u64>| {
            let source = source.parse().unwrap();
            times.filter(|ms| sources.note(source, at(*ms))).count()
        };
        let busy = passed("192.0.2.1", 0..10_000);
        assert!((50..60).contains(&busy), "{busy} of 10,000 in 10 s");
        let others = (1..=100).filter(|n| passed(&format!("10.0.0.{n}"), 10_000..10_004) == 4).count();
        assert!(others > 90, "at most a few are in its group: {others}");
        assert_eq!(passed("192.0.2.1", 20_000..20_016), 16);
        // Later than all others, with one of which it may share its group.
        assert!(passed("2001:db8::1", 40_000..41_000) > 0);
        assert!(passed("2001:db8::ffff", 41_000..41_100) < 2, "the same network");
    }
}
