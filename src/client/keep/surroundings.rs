//! What a grant depends on and no packet reports: the own address toward the server, and whether this machine slept.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::client::knock::route::Route;
use spa_knock_core::knock::Now;

/// The wall clock is ahead of the steady clock by this much after a sleep. Less than the margin of a renewal.
const SLEEP: Duration = Duration::from_millis(900);

/// The local outgoing address toward each server.
pub(super) struct OwnAddresses(Vec<(SocketAddr, Option<IpAddr>)>);

impl OwnAddresses {
    /// Starts to watch the addresses toward these servers. Sends nothing.
    pub(super) fn toward(servers: &[SocketAddr]) -> Self {
        Self(servers.iter().map(|&server| (server, own_address(server))).collect())
    }

    /// Watches the addresses toward these servers from now on; a server that was watched keeps its last address.
    pub(super) fn watch(&mut self, servers: &[SocketAddr]) {
        let last = std::mem::take(&mut self.0);
        let known = |server| last.iter().find(|(watched, _)| *watched == server).map(|&(_, own)| own);
        self.0 = servers
            .iter()
            .map(|&server| (server, known(server).unwrap_or_else(|| own_address(server))))
            .collect();
    }

    /// Whether an address is another one than at the last call. A route that is gone is no change; one that is back is:
    /// the same address can belong to another network.
    pub(super) fn have_changed(&mut self) -> bool {
        self.update(own_address)
    }

    fn update(&mut self, own_address: impl Fn(SocketAddr) -> Option<IpAddr>) -> bool {
        let mut changed = false;
        for (server, last) in &mut self.0 {
            let own = own_address(*server);
            changed |= own.is_some() && own != *last;
            *last = own;
        }
        changed
    }
}

fn own_address(server: SocketAddr) -> Option<IpAddr> {
    Route::to(server).ok().map(|route| route.own)
}

/// Detects sleep: the steady clock stops, at least on Linux and macOS, but the wall clock continues.
pub(super) struct SleepDetector(Now);

impl SleepDetector {
    pub(super) const fn new(now: Now) -> Self {
        Self(now)
    }

    /// Whether the machine slept since the last call. A wall clock that is set forward looks the same, and costs one
    /// knock.
    pub(super) fn has_slept(&mut self, now: Now) -> bool {
        let last = std::mem::replace(&mut self.0, now);
        now.wall > last.wall.plus(now.steady.since(last.steady)).plus(SLEEP)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use spa_knock_core::knock::{Steady, Timestamp};

    use super::*;

    #[test]
    fn another_address_and_a_route_that_is_back_are_changes() {
        let server = SocketAddr::from(([192, 0, 2, 1], 62201));
        let mut own = OwnAddresses(vec![(server, Some([10, 0, 0, 1].into()))]);
        for (address, changed) in [
            (Some([10, 0, 0, 1]), false),
            (Some([10, 0, 0, 2]), true),
            (Some([10, 0, 0, 2]), false),
            (None, false),
            (None, false),
            (Some([10, 0, 0, 2]), true),
            (Some([10, 0, 0, 1]), true),
        ] {
            assert_eq!(own.update(|_| address.map(IpAddr::from)), changed, "{address:?}");
        }
    }

    #[test]
    fn each_server_is_compared_with_its_own_last_address() {
        let [one, other] = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], 9)));
        let mut own = OwnAddresses(vec![(one, Some([10, 0, 0, 1].into()))]);
        own.watch(&[other, one]);
        assert_eq!(own.0, [(other, Some([127, 0, 0, 1].into())), (one, Some([10, 0, 0, 1].into()))]);
        assert!(own.have_changed());
        assert!(!own.have_changed());
        own.watch(&[]);
        assert!(!own.have_changed());
    }

    #[test]
    fn only_a_wall_clock_that_runs_ahead_is_a_sleep() {
        let now = |wall, steady| Now {
            wall: Timestamp::from_millis(wall),
            steady: Steady::from_duration(Duration::from_millis(steady)),
        };
        let mut detector = SleepDetector::new(now(10_000, 0));
        for (wall, steady, slept) in [
            (10_500, 500, false),
            // A stopped process and a slow machine: both clocks continue.
            (70_500, 60_500, false),
            // Slewed by NTP.
            (71_005, 61_000, false),
            (74_505, 61_500, true),
            (75_005, 62_000, false),
            // Set back, as no sleep does.
            (10_000, 62_500, false),
            (10_500, 63_000, false),
        ] {
            assert_eq!(detector.has_slept(now(wall, steady)), slept, "steady clock at {steady} ms");
        }
    }
}
