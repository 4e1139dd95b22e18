//! Who holds which live grant, and for how long: a second knock, maybe of somebody else behind the same address, never
//! shortens one, and what ends for one client stays open for another.

use std::collections::HashMap;
use std::time::Duration;

use super::Live;
use crate::gate::{Grant, Passage, Way};
use crate::knock::{ActionName, ClientName};

/// Ends that have passed are looked for when there are so many, or twice as many as were left the last time.
const PRUNE_MIN: usize = 1024;

#[derive(Default, Clone)]
pub(super) struct Held {
    grants: HashMap<Passage, Vec<Holder>>,
    left: usize,
}

/// A grant as one client holds it by one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) client: ClientName,
    pub(super) action: ActionName,
    /// On the steady clock.
    pub(super) end: Duration,
}

/// What the kernel is to be told of one passage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) passage: Passage,
    /// Who holds it from now on, for the longest time; nobody = it is closed.
    pub(super) holder: Option<Holder>,
    /// Whether the kernel has it.
    pub(super) before: Before,
}

/// Whether a passage is open when it is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It is, or may be.
    Open,
    /// It is not, as far as is known.
    Closed,
}

impl Holder {
    fn of(grant: &Grant, now: Duration) -> Self {
        Self {
            client: grant.client().clone(),
            action: grant.action().clone(),
            end: now.saturating_add(grant.duration()),
        }
    }

    /// For who reads the firewall's tables.
    pub(super) fn comment(&self) -> String {
        format!("{} {}", self.client, self.action)
    }

    fn live(&self, passage: Passage, now: Duration) -> Live {
        Live {
            passage,
            client: self.client.clone(),
            action: self.action.clone(),
            left: self.end.saturating_sub(now),
        }
    }
}

impl Held {
    /// How it is held once `grant` has been made at `now`: for its own time, or for what is left of a longer one.
    pub(super) fn with(&self, grant: &Grant, now: Duration) -> Change {
        let passage = grant.passage();
        let longest = self.grants.get(&passage).into_iter().flatten().map(|holder| holder.end).max();
        let own = Holder::of(grant, now);
        let holder = Holder { end: own.end.max(longest.unwrap_or_default()), ..own };
        let before = if longest.is_some_and(|end| end > now) { Before::Open } else { Before::Closed };
        Change { passage, holder: Some(holder), before }
    }

    /// Notes what has been granted at `now`.
    pub(super) fn note(&mut self, grants: &[Grant], now: Duration) {
        if self.grants.len() > self.left.saturating_mul(2).max(PRUNE_MIN) {
            self.grants.retain(|_, holders| holders.iter().any(|holder| holder.end > now));
            self.left = self.grants.len();
        }
        for grant in grants {
            self.hold(grant.passage(), Holder::of(grant, now));
        }
    }

    /// Takes up what an earlier daemon has granted.
    pub(super) fn hold(&mut self, passage: Passage, holder: Holder) {
        let holders = self.grants.entry(passage).or_default();
        match holders
            .iter_mut()
            .find(|known| (&known.client, &known.action) == (&holder.client, &holder.action))
        {
            Some(known) => known.end = known.end.max(holder.end),
            None => holders.push(holder),
        }
    }

    /// All that is live, once for each who holds it.
    pub(super) fn live(&self, now: Duration) -> Vec<Live> {
        let each = self.grants.iter().flat_map(|(&passage, holders)| {
            holders.iter().filter(|holder| holder.end > now).map(move |holder| holder.live(passage, now))
        });
        each.collect()
    }

    /// What the kernel must be told so that all that is live is open there.
    pub(super) fn changes(&self, now: Duration) -> Vec<Change> {
        let longest = |holders: &[Holder]| holders.iter().max_by_key(|holder| holder.end).cloned();
        let held = self.grants.iter().filter_map(|(&passage, holders)| Some((passage, longest(holders)?)));
        let live = held.filter(|(_, holder)| holder.end > now);
        live.map(|(passage, holder)| Change { passage, holder: Some(holder), before: Before::Open }).collect()
    }

    /// What changes when these are held no more, and what that ends.
    pub(super) fn without(&self, which: &dyn Fn(&Live) -> bool, now: Duration) -> (Vec<Change>, Vec<Live>) {
        let (mut changes, mut closed) = (Vec::new(), Vec::new());
        for (&passage, holders) in &self.grants {
            let live = holders.iter().filter(|holder| holder.end > now);
            let (ended, stay): (Vec<_>, Vec<_>) = live.partition(|holder| which(&holder.live(passage, now)));
            if ended.is_empty() {
                continue;
            }
            closed.extend(ended.into_iter().map(|holder| holder.live(passage, now)));
            let holder = stay.into_iter().max_by_key(|holder| holder.end).cloned();
            // Whether it has been used is not known: it is not given twice.
            let holder = holder.filter(|_| !matches!(passage.way, Way::Once(_)));
            changes.push(Change { passage, holder, before: Before::Open });
        }
        (changes, closed)
    }

    /// Forgets who holds these.
    pub(super) fn forget(&mut self, which: &dyn Fn(&Live) -> bool, now: Duration) {
        self.grants.retain(|&passage, holders| {
            holders.retain(|holder| !which(&holder.live(passage, now)));
            !holders.is_empty()
        });
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
        let from = "10.0.0.1".parse().unwrap();
        let [ssh, web] =
            ["tcp/22", "tcp/443"].map(|ports| Passage { from, way: Way::Ports(ports.parse().unwrap()) });
        for (passage, client, end) in [
            (ssh, "laptop", 60),
            (ssh, "phone", 30),
            (ssh, "laptop", 50),
            (web, "laptop", 60),
            (web, "old", 5),
        ] {
            held.hold(passage, holder(client, end));
        }
        let now = Duration::from_secs(10);
        assert_eq!(held.live(now).len(), 3);
        let gone = |live: &Live| live.client.as_str() == "laptop";
        let (mut changes, closed) = held.without(&gone, now);
        changes.sort_by_key(|change| change.passage);
        assert_eq!(
            changes,
            [
                Change { passage: ssh, holder: Some(holder("phone", 30)), before: Before::Open },
                Change { passage: web, holder: None, before: Before::Open },
            ]
        );
        assert_eq!(closed.len(), 2);
        held.forget(&gone, now);
        assert!(held.without(&gone, now).0.is_empty());
        let left = Change { passage: ssh, holder: Some(holder("phone", 30)), before: Before::Open };
        assert_eq!(held.changes(now), [left]);
    }

    #[test]
    fn what_a_client_closes_by_one_action_stays_open_by_another() {
        let mut held = Held::default();
        let passage =
            Passage { from: "10.0.0.1".parse().unwrap(), way: Way::Ports("tcp/8080".parse().unwrap()) };
        held.hold(passage, holder("laptop", 60));
        held.hold(passage, Holder { action: "to-web".parse().unwrap(), ..holder("laptop", 30) });
        let (changes, closed) = held.without(&|live| live.action.as_str() == "to-web", Duration::ZERO);
        assert_eq!(changes, [Change { passage, holder: Some(holder("laptop", 60)), before: Before::Open }]);
        assert_eq!(closed.len(), 1);
    }
}
