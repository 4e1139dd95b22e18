//! Who holds which live grant, and for how long: a second knock, maybe of somebody else behind the same address, never
//! shortens one, and what ends for one client stays open for another.

mod limits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::ActiveGrant;
use super::kind::GrantKind;
use spa_knock_core::auth::{Access, AccessTarget, Grant};
use spa_knock_core::knock::{ActionName, BootTime, ClientName, PortRange, Prefix, Steady};

/// Ends that have passed are looked for when there are so many, or twice as many as were left the last time.
const PRUNE_MIN: usize = 1024;
/// How long an entry may still be in the kernel after its end: clocks differ by milliseconds, and the kernel collects
/// what has expired about once a second.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A point in time on the clock that a backend counts by.
pub(super) trait PointInTime: Copy + Ord {
    /// How much later this is than `earlier`; nothing if it is not.
    fn since(self, earlier: Self) -> Duration;

    /// This much later, or the end of time.
    fn plus(self, span: Duration) -> Self;
}

impl PointInTime for Steady {
    fn since(self, earlier: Self) -> Duration {
        Self::since(self, earlier)
    }

    fn plus(self, span: Duration) -> Self {
        Self::plus(self, span)
    }
}

impl PointInTime for BootTime {
    fn since(self, earlier: Self) -> Duration {
        Self::since(self, earlier)
    }

    fn plus(self, span: Duration) -> Self {
        Self::plus(self, span)
    }
}

/// The books of all live grants.
#[derive(Clone)]
pub(super) struct GrantTable<T> {
    grants: BTreeMap<Access, Vec<GrantHolder<T>>>,
    /// What each client holds; some of it may have ended.
    clients: HashMap<ClientName, BTreeSet<Access>>,
    /// How many passages there are of a kind, for IPv4 and for IPv6.
    filled: BTreeMap<(GrantKind, bool), usize>,
    left: usize,
    /// When ends that have passed were last looked for.
    pruned: Option<T>,
}

/// A grant as one client holds it by one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrantHolder<T> {
    pub(super) client: ClientName,
    pub(super) action: ActionName,
    pub(super) end: T,
}

/// What the kernel is to be told of one passage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ElementChange<T> {
    pub(super) access: Access,
    /// Who holds it from now on, for the longest time; nobody = it is closed.
    pub(super) holder: Option<GrantHolder<T>>,
    /// Whether the kernel has it.
    pub(super) before: WasOpen,
}

/// Whether a passage is open when it is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WasOpen {
    /// It is, or may be.
    Open,
    /// It is not, as far as is known.
    Closed,
}

impl<T: PointInTime> GrantHolder<T> {
    pub(super) fn of(grant: &Grant, now: T) -> Self {
        Self {
            client: grant.client().clone(),
            action: grant.action().clone(),
            end: now.plus(grant.duration()),
        }
    }

    /// For who reads the firewall's tables.
    pub(super) fn comment(&self) -> String {
        format!("{} {}", self.client, self.action)
    }

    pub(super) fn live(&self, access: Access, now: T) -> ActiveGrant {
        ActiveGrant {
            access,
            client: self.client.clone(),
            action: self.action.clone(),
            left: self.end.since(now),
        }
    }
}

impl<T> Default for GrantTable<T> {
    fn default() -> Self {
        Self {
            grants: BTreeMap::new(),
            clients: HashMap::new(),
            filled: BTreeMap::new(),
            left: 0,
            pruned: None,
        }
    }
}

impl<T: PointInTime> GrantTable<T> {
    /// How it is held once `grant` has been made at `now`: for its own time, or for what is left of a longer one.
    pub(super) fn with(&self, grant: &Grant, now: T) -> ElementChange<T> {
        let access = grant.access();
        let longest = self.longest(&access);
        let own = GrantHolder::of(grant, now);
        let before =
            if longest.is_some_and(|holder| holder.end > now) { WasOpen::Open } else { WasOpen::Closed };
        let holder = longest.filter(|holder| holder.end > own.end).cloned().unwrap_or(own);
        ElementChange { access, holder: Some(holder), before }
    }

    /// Forgets what ended so long ago that the kernel has forgotten it, too.
    fn prune(&mut self, now: T) {
        let Self { grants, clients, filled, .. } = self;
        grants.retain(|access, holders| {
            let stays = holders.iter().any(|holder| holder.end.plus(LINGER) > now);
            if !stays {
                less(filled, access);
            }
            stays
        });
        clients.retain(|_, own| {
            own.retain(|access| grants.contains_key(access));
            !own.is_empty()
        });
        (self.left, self.pruned) = (self.grants.len(), Some(now));
    }

    /// Notes what has been granted at `now`.
    pub(super) fn note(&mut self, grants: &[Grant], now: T) {
        if self.grants.len() > self.left.saturating_mul(2).max(PRUNE_MIN) {
            self.prune(now);
        }
        for grant in grants {
            self.hold(grant.access(), GrantHolder::of(grant, now));
        }
    }

    /// Notes one holder more, as of a grant that an earlier daemon has made.
    pub(super) fn hold(&mut self, access: Access, holder: GrantHolder<T>) {
        if !self.grants.contains_key(&access) {
            let count = self.filled.entry(shelf(&access)).or_default();
            *count = count.saturating_add(1);
        }
        if !self.clients.get(&holder.client).is_some_and(|own| own.contains(&access)) {
            self.clients.entry(holder.client.clone()).or_default().insert(access);
        }
        let holders = self.grants.entry(access).or_default();
        match holders
            .iter_mut()
            .find(|known| (&known.client, &known.action) == (&holder.client, &holder.action))
        {
            Some(known) => known.end = known.end.max(holder.end),
            None => holders.push(holder),
        }
    }

    /// How many passages there are, some of which may have ended.
    pub(super) fn count(&self) -> usize {
        self.grants.len()
    }

    /// Who holds the passage for the longest time.
    pub(super) fn longest(&self, access: &Access) -> Option<&GrantHolder<T>> {
        self.grants.get(access)?.iter().max_by_key(|holder| holder.end)
    }

    /// The other targets that the door of this forward leads to at `now` for the same address.
    pub(super) fn rivals(&self, access: &Access, now: T) -> Vec<Access> {
        let AccessTarget::Forward { door, to } = access.target else { return Vec::new() };
        let lowest = AccessTarget::Forward { door, to: SocketAddr::from(([0, 0, 0, 0], 0)) };
        let all = self.grants.range(Access { target: lowest, ..*access }..);
        let same = all.take_while(|(other, _)| {
            (other.from, other.link) == (access.from, access.link)
                && matches!(other.target, AccessTarget::Forward { door: of, .. } if of == door)
        });
        let others = same.filter(|(other, holders)| {
            other.target != AccessTarget::Forward { door, to }
                && holders.iter().any(|holder| holder.end.plus(LINGER) > now)
        });
        others.map(|(other, _)| *other).collect()
    }

    /// Forgets everybody who holds this passage.
    pub(super) fn forget_passage(&mut self, access: &Access) {
        let Some(holders) = self.grants.remove(access) else { return };
        less(&mut self.filled, access);
        for holder in holders {
            if let Some(own) = self.clients.get_mut(&holder.client) {
                own.remove(access);
            }
        }
    }

    /// All who hold, at `now`, intervals of the same kind that have addresses in common with this one.
    pub(super) fn near(&self, access: &Access, now: T) -> impl Iterator<Item = (&Access, &GrantHolder<T>)> {
        let (kind, link, from) = (GrantKind::of(access), access.link, access.from);
        // Prefixes are nested or have nothing in common: those around this one, and those within it.
        let first = from.first();
        let around: Vec<Prefix> = match kind {
            GrantKind::Range => Vec::new(),
            _ => (0..128).map(|length| Prefix::of(first, length)).collect(),
        };
        let around: BTreeSet<Prefix> = around.into_iter().filter(|around| *around != from).collect();
        let around = around.into_iter().filter(move |around| around.contains(from.last()));
        let around = around.flat_map(|around| {
            self.grants.range(lowest(around)..).take_while(move |(other, _)| other.from == around)
        });
        let within =
            self.grants.range(lowest(from)..).take_while(move |(other, _)| from.contains(other.from.first()));
        let near = around.chain(within);
        let near = near.filter(move |(other, _)| other.link == link && GrantKind::of(other) == kind);
        near.flat_map(move |(other, holders)| {
            holders.iter().filter(move |holder| holder.end > now).map(move |holder| (other, holder))
        })
    }

    /// All that is live, once for each who holds it.
    pub(super) fn live(&self, now: T) -> Vec<ActiveGrant> {
        let each = self.grants.iter().flat_map(|(&access, holders)| {
            holders.iter().filter(|holder| holder.end > now).map(move |holder| holder.live(access, now))
        });
        each.collect()
    }

    /// What the kernel must be told so that all that is live is open there.
    pub(super) fn changes(&self, now: T) -> Vec<ElementChange<T>> {
        let mut changes = self.all_changes();
        changes.retain(|change| change.holder.as_ref().is_some_and(|holder| holder.end > now));
        changes
    }

    /// The same for all that is in the books, whether it has ended or not.
    pub(super) fn all_changes(&self) -> Vec<ElementChange<T>> {
        let longest = |holders: &[GrantHolder<T>]| holders.iter().max_by_key(|holder| holder.end).cloned();
        let held = self.grants.iter().filter_map(|(&access, holders)| Some((access, longest(holders)?)));
        held.map(|(access, holder)| ElementChange { access, holder: Some(holder), before: WasOpen::Open })
            .collect()
    }

    /// What changes when these are held no more, and what that ends.
    pub(super) fn without(
        &self,
        which: &dyn Fn(&ActiveGrant) -> bool,
        now: T,
    ) -> (Vec<ElementChange<T>>, Vec<ActiveGrant>) {
        let (mut changes, mut closed) = (Vec::new(), Vec::new());
        for (&access, holders) in &self.grants {
            let live = holders.iter().filter(|holder| holder.end > now);
            let (ended, stay): (Vec<_>, Vec<_>) = live.partition(|holder| which(&holder.live(access, now)));
            if ended.is_empty() {
                continue;
            }
            closed.extend(ended.into_iter().map(|holder| holder.live(access, now)));
            let holder = stay.into_iter().max_by_key(|holder| holder.end).cloned();
            // Whether it has been used is not known: it is not given twice.
            let holder = holder.filter(|_| !matches!(access.target, AccessTarget::Once(_)));
            changes.push(ElementChange { access, holder, before: WasOpen::Open });
        }
        (changes, closed)
    }

    /// Forgets who holds these.
    pub(super) fn forget(&mut self, which: &dyn Fn(&ActiveGrant) -> bool, now: T) {
        let Self { grants, clients, filled, .. } = self;
        grants.retain(|&access, holders| {
            let ended: Vec<GrantHolder<T>> =
                holders.extract_if(.., |holder| which(&holder.live(access, now))).collect();
            for holder in ended {
                let still = holders.iter().any(|other| other.client == holder.client);
                if let Some(own) = clients.get_mut(&holder.client).filter(|_| !still) {
                    own.remove(&access);
                }
            }
            if holders.is_empty() {
                less(filled, &access);
            }
            !holders.is_empty()
        });
        clients.retain(|_, own| !own.is_empty());
    }
}

/// The set that a passage has a place in.
fn shelf(access: &Access) -> (GrantKind, bool) {
    (GrantKind::of(access), access.from.first().is_ipv4())
}

fn less(filled: &mut BTreeMap<(GrantKind, bool), usize>, access: &Access) {
    if let Some(count) = filled.get_mut(&shelf(access)) {
        *count = count.saturating_sub(1);
    }
}

/// Before all passages of a prefix, in their order.
fn lowest(from: Prefix) -> Access {
    Access::new(from, AccessTarget::Ports(PortRange::LOWEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    fn holder(client: &str, end: u64) -> GrantHolder<Steady> {
        GrantHolder { client: client.parse().unwrap(), action: "open-ssh".parse().unwrap(), end: at(end) }
    }

    #[test]
    fn what_ends_for_one_client_stays_open_for_another_as_long_as_that_one_holds_it() {
        let mut held = GrantTable::default();
        let from = "10.0.0.1".parse().unwrap();
        let [ssh, web] =
            ["tcp/22", "tcp/443"].map(|ports| Access::new(from, AccessTarget::Ports(ports.parse().unwrap())));
        for (access, client, end) in [
            (ssh, "laptop", 60),
            (ssh, "phone", 30),
            (ssh, "laptop", 50),
            (web, "laptop", 60),
            (web, "old", 5),
        ] {
            held.hold(access, holder(client, end));
        }
        let now = at(10);
        assert_eq!(held.live(now).len(), 3);
        let gone = |live: &ActiveGrant| live.client.as_str() == "laptop";
        let (mut changes, closed) = held.without(&gone, now);
        changes.sort_by_key(|change| change.access);
        assert_eq!(
            changes,
            [
                ElementChange { access: ssh, holder: Some(holder("phone", 30)), before: WasOpen::Open },
                ElementChange { access: web, holder: None, before: WasOpen::Open },
            ]
        );
        assert_eq!(closed.len(), 2);
        held.forget(&gone, now);
        assert!(held.without(&gone, now).0.is_empty());
        let left = ElementChange { access: ssh, holder: Some(holder("phone", 30)), before: WasOpen::Open };
        assert_eq!(held.changes(now), [left]);
    }

    #[test]
    fn what_a_client_closes_by_one_action_stays_open_by_another() {
        let mut held = GrantTable::default();
        let access =
            Access::new("10.0.0.1".parse().unwrap(), AccessTarget::Ports("tcp/8080".parse().unwrap()));
        held.hold(access, holder("laptop", 60));
        held.hold(access, GrantHolder { action: "to-web".parse().unwrap(), ..holder("laptop", 30) });
        let (changes, closed) = held.without(&|live| live.action.as_str() == "to-web", at(0));
        assert_eq!(
            changes,
            [ElementChange { access, holder: Some(holder("laptop", 60)), before: WasOpen::Open }]
        );
        assert_eq!(closed.len(), 1);
    }
}
