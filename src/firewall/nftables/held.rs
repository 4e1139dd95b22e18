//! Who holds which live grant, and for how long: a second knock, maybe of somebody else behind the same address, never
//! shortens one, and what ends for one client stays open for another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::firewall::Closed;
use crate::gate::Grant;
use crate::knock::{ActionName, ClientName, Door};

/// Ends that have passed are looked for when there are so many, or twice as many as were left the last time.
const PRUNE_MIN: usize = 1024;

#[derive(Default)]
pub(super) struct Held {
    grants: HashMap<(IpAddr, Door), Vec<Holder>>,
    left: usize,
}

/// A grant as one client holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) client: ClientName,
    pub(super) action: ActionName,
    /// On the steady clock.
    pub(super) end: Duration,
}

impl Holder {
    /// For who reads the firewall's tables.
    pub(super) fn comment(&self) -> String {
        format!("{} {}", self.client, self.action)
    }
}

/// What the kernel is to be told of one address and door.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) address: IpAddr,
    pub(super) door: Door,
    /// Who holds it from now on, for the longest time; nobody = it is closed.
    pub(super) holder: Option<Holder>,
}

impl Held {
    /// How it is held once `grant` has been made at `now`: for its own time, or for what is left of a longer one.
    pub(super) fn with(&self, grant: &Grant, now: Duration) -> Change {
        let (address, door) = (grant.address(), grant.door());
        let longest = self.grants.get(&(address, door)).into_iter().flatten().map(|holder| holder.end).max();
        let own = Holder::of(grant, now);
        let holder = Holder { end: own.end.max(longest.unwrap_or_default()), ..own };
        Change { address, door, holder: Some(holder) }
    }

    /// Notes what has been granted at `now`.
    pub(super) fn note(&mut self, grants: &[Grant], now: Duration) {
        if self.grants.len() > self.left.saturating_mul(2).max(PRUNE_MIN) {
            self.grants.retain(|_, holders| holders.iter().any(|holder| holder.end > now));
            self.left = self.grants.len();
        }
        for grant in grants {
            self.hold(grant.address(), grant.door(), Holder::of(grant, now));
        }
    }

    /// Takes up what an earlier daemon has granted.
    pub(super) fn hold(&mut self, address: IpAddr, door: Door, holder: Holder) {
        let holders = self.grants.entry((address, door)).or_default();
        match holders.iter_mut().find(|known| known.client == holder.client) {
            Some(known) => *known = Holder { end: known.end.max(holder.end), ..holder },
            None => holders.push(holder),
        }
    }

    /// What changes when these clients hold nothing any more, and what that ends.
    pub(super) fn without(
        &self,
        gone: &dyn Fn(&ClientName) -> bool,
        now: Duration,
    ) -> (Vec<Change>, Vec<Closed>) {
        let (mut changes, mut closed) = (Vec::new(), Vec::new());
        for (&(address, door), holders) in &self.grants {
            let live = holders.iter().filter(|holder| holder.end > now);
            let (ended, stay): (Vec<_>, Vec<_>) = live.partition(|holder| gone(&holder.client));
            if ended.is_empty() {
                continue;
            }
            closed.extend(ended.into_iter().map(|Holder { client, action, .. }| Closed {
                client: client.clone(),
                action: action.clone(),
                address,
            }));
            let holder = stay.into_iter().max_by_key(|holder| holder.end).cloned();
            changes.push(Change { address, door, holder });
        }
        (changes, closed)
    }

    /// Forgets what these clients hold.
    pub(super) fn forget(&mut self, gone: &dyn Fn(&ClientName) -> bool) {
        self.grants.retain(|_, holders| {
            holders.retain(|holder| !gone(&holder.client));
            !holders.is_empty()
        });
    }
}

impl Holder {
    fn of(grant: &Grant, now: Duration) -> Self {
        Self {
            client: grant.client().clone(),
            action: grant.action().clone(),
            end: now.saturating_add(grant.duration()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(client: &str, end: u64) -> Holder {
        Holder {
            client: client.parse().unwrap(),
            action: "open-ssh".parse().unwrap(),
            end: Duration::from_secs(end),
        }
    }

    #[test]
    fn what_ends_for_one_client_stays_open_for_another_as_long_as_that_one_holds_it() {
        let mut held = Held::default();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let [ssh, web]: [Door; 2] = ["tcp/22", "tcp/443"].map(|door| door.parse().unwrap());
        for (door, client, end) in [
            (ssh, "laptop", 60),
            (ssh, "phone", 30),
            (ssh, "laptop", 50),
            (web, "laptop", 60),
            (web, "old", 5),
        ] {
            held.hold(address, door, holder(client, end));
        }
        let now = Duration::from_secs(10);
        let gone = |client: &ClientName| client.as_str() == "laptop";
        let (mut changes, closed) = held.without(&gone, now);
        changes.sort_by_key(|change| change.door.port());
        assert_eq!(
            changes,
            [
                Change { address, door: ssh, holder: Some(holder("phone", 30)) },
                Change { address, door: web, holder: None },
            ]
        );
        assert_eq!(closed.len(), 2);
        held.forget(&gone);
        assert!(held.without(&gone, now).0.is_empty());
        assert_eq!(held.grants[&(address, ssh)], [holder("phone", 30)]);
    }
}
