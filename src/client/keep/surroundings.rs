//! What a grant depends on and no packet reports: the own address toward the server, and whether this machine slept.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::client::knock::route::Route;
use spa_knock_core::knock::Now;

/// The wall clock is ahead of the steady clock by this much after a sleep. Less than the margin of a renewal.
const SLEEP: Duration = Duration::from_millis(900);

/// The local outgoing address toward each server address that worked last. If none of them has a route any more, also
/// toward the others of the name: the new network may have IPv4 only.
pub(super) struct OwnAddresses {
    servers: Vec<(SocketAddr, Option<IpAddr>)>,
    /// All addresses of the name.
    known: Vec<SocketAddr>,
    /// The first of them that has a route, and the own address toward it, while `servers` have none.
    other: Option<(SocketAddr, IpAddr)>,
}

impl OwnAddresses {
    /// Starts to watch the addresses toward these servers. Sends nothing.
    pub(super) fn toward(servers: &[SocketAddr], known: &[SocketAddr]) -> Self {
        let mut own = Self { servers: Vec::new(), known: known.to_vec(), other: None };
        own.watch(servers);
        own
    }

    /// Watches the addresses toward these servers from now on; a server that was watched keeps its last address.
    pub(super) fn watch(&mut self, servers: &[SocketAddr]) {
        let last = std::mem::take(&mut self.servers);
        let own = |server| {
            let watched = last.iter().find(|(watched, _)| *watched == server);
            watched.map_or_else(|| own_address(server), |&(_, own)| own)
        };
        self.servers = servers.iter().map(|&server| (server, own(server))).collect();
    }

    /// Replaces the addresses of the name.
    pub(super) fn learn(&mut self, known: Vec<SocketAddr>) {
        self.known = known;
    }

    /// Where a knock arrives: the addresses that worked last, or all if none of those has a route.
    pub(super) fn destinations(&self) -> Vec<SocketAddr> {
        match self.other {
            Some(_) => self.known.clone(),
            None => self.servers.iter().map(|&(server, _)| server).collect(),
        }
    }

    /// Whether an address is another one than at the last call. A route that is gone is no change; one that is back is:
    /// the same address can belong to another network.
    pub(super) fn have_changed(&mut self) -> bool {
        self.update(own_address)
    }

    fn update(&mut self, own_address: impl Fn(SocketAddr) -> Option<IpAddr>) -> bool {
        let mut changed = false;
        for (server, last) in &mut self.servers {
            let own = own_address(*server);
            changed |= own.is_some() && own != *last;
            *last = own;
        }
        let other = if self.servers.iter().any(|(_, own)| own.is_some()) {
            None
        } else {
            self.known.iter().find_map(|&server| own_address(server).map(|own| (server, own)))
        };
        changed |= other.is_some() && other != self.other;
        self.other = other;
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

    fn watched(servers: &[(SocketAddr, Option<IpAddr>)], known: &[SocketAddr]) -> OwnAddresses {
        OwnAddresses { servers: servers.to_vec(), known: known.to_vec(), other: None }
    }

    #[test]
    fn another_address_and_a_route_that_is_back_are_changes() {
        let server = SocketAddr::from(([192, 0, 2, 1], 62201));
        let mut own = watched(&[(server, Some([10, 0, 0, 1].into()))], &[server]);
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
    fn without_a_route_to_the_last_address_another_one_of_the_name_is_a_change() {
        let [last, other] = [1, 2].map(|number| SocketAddr::from(([192, 0, 2, number], 62201)));
        let mut own = watched(&[(last, Some([10, 0, 0, 1].into()))], &[last, other]);
        for (to_last, to_other, changed, destinations) in [
            (Some([10, 0, 0, 1]), Some([10, 1, 0, 1]), false, &[last][..]),
            // The other address is not in use.
            (Some([10, 0, 0, 1]), Some([10, 1, 0, 2]), false, &[last]),
            (None, Some([10, 1, 0, 2]), true, &[last, other]),
            (None, Some([10, 1, 0, 2]), false, &[last, other]),
            (None, Some([10, 1, 0, 3]), true, &[last, other]),
            (None, None, false, &[last]),
            (None, Some([10, 1, 0, 3]), true, &[last, other]),
            (Some([10, 0, 0, 1]), Some([10, 1, 0, 3]), true, &[last]),
        ] {
            let toward = |server| if server == last { to_last } else { to_other };
            assert_eq!(
                own.update(|server| toward(server).map(IpAddr::from)),
                changed,
                "{to_last:?} {to_other:?}"
            );
            assert_eq!(own.destinations(), destinations, "{to_last:?} {to_other:?}");
        }
    }

    #[test]
    fn each_server_is_compared_with_its_own_last_address() {
        let [one, other] = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], 9)));
        let mut own = watched(&[(one, Some([10, 0, 0, 1].into()))], &[]);
        own.watch(&[other, one]);
        assert_eq!(own.servers, [(other, Some([127, 0, 0, 1].into())), (one, Some([10, 0, 0, 1].into()))]);
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
