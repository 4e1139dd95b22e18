//! Records who holds which active grant until when. Another knock, even from a different client behind the same
//! address, never shortens a grant, and what ends for one client stays open for another.

mod limits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::ActiveGrant;
use super::kind::GrantKind;
use spa_knock_core::auth::{Access, AccessTarget, Grant};
use spa_knock_core::knock::{ActionName, BootTime, ClientName, PortRange, Prefix, Steady};

/// The table is pruned when it has this many accesses, and then whenever it has doubled since.
const PRUNE_MIN: usize = 1024;
/// How long an entry may stay in the kernel after its end: clocks differ by milliseconds, and the kernel collects
/// expired entries about once a second.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A point in time on the clock that a backend uses.
pub(super) trait PointInTime: Copy + Ord {
    /// Time from `earlier` to this; zero if this is not later.
    fn since(self, earlier: Self) -> Duration;

    /// This time plus `span`, saturating.
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

/// All active grants, by access, each with its holders.
#[derive(Clone)]
pub(super) struct GrantTable<T> {
    grants: BTreeMap<Access, Vec<GrantHolder<T>>>,
    /// The accesses of each client; some may have expired.
    clients: HashMap<ClientName, BTreeSet<Access>>,
    /// Number of accesses of each kind, for IPv4 (`true`) and IPv6.
    filled: BTreeMap<(GrantKind, bool), usize>,
    /// Number of accesses after the last prune.
    count_after_prune: usize,
    /// When the table was last pruned.
    pruned: Option<T>,
}

/// One client that holds an access, by one action, until `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrantHolder<T> {
    pub(super) client: ClientName,
    pub(super) action: ActionName,
    pub(super) end: T,
}

/// A change of one access in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ElementChange<T> {
    pub(super) access: Access,
    /// The holder whose grant ends last; `None` closes the access.
    pub(super) holder: Option<GrantHolder<T>>,
    /// Whether the kernel has the access already.
    pub(super) before: WasOpen,
}

/// Whether an access was open before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WasOpen {
    /// Open, or possibly open.
    Open,
    /// Not open, as far as is known.
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

    /// The comment shown in listings of the firewall.
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
            count_after_prune: 0,
            pruned: None,
        }
    }
}

impl<T: PointInTime> GrantTable<T> {
    /// The change that `grant` causes at `now`: the access stays open for the grant's time or for what is left of a
    /// longer grant.
    pub(super) fn with(&self, grant: &Grant, now: T) -> ElementChange<T> {
        let access = grant.access();
        let longest = self.longest(&access);
        let own = GrantHolder::of(grant, now);
        let before =
            if longest.is_some_and(|holder| holder.end > now) { WasOpen::Open } else { WasOpen::Closed };
        let holder = longest.filter(|holder| holder.end > own.end).cloned().unwrap_or(own);
        ElementChange { access, holder: Some(holder), before }
    }

    /// Removes grants that ended so long ago that the kernel has removed them too.
    fn prune(&mut self, now: T) {
        let Self { grants, clients, filled, .. } = self;
        grants.retain(|access, holders| {
            let stays = holders.iter().any(|holder| holder.end.plus(LINGER) > now);
            if !stays {
                decrement(filled, access);
            }
            stays
        });
        clients.retain(|_, own| {
            own.retain(|access| grants.contains_key(access));
            !own.is_empty()
        });
        (self.count_after_prune, self.pruned) = (self.grants.len(), Some(now));
    }

    /// Records what has been granted at `now`.
    pub(super) fn note(&mut self, grants: &[Grant], now: T) {
        if self.grants.len() > self.count_after_prune.saturating_mul(2).max(PRUNE_MIN) {
            self.prune(now);
        }
        for grant in grants {
            self.hold(grant.access(), GrantHolder::of(grant, now));
        }
    }

    /// Records one holder, such as that of a grant by the previous daemon.
    pub(super) fn hold(&mut self, access: Access, holder: GrantHolder<T>) {
        if !self.grants.contains_key(&access) {
            let count = self.filled.entry(set_key(&access)).or_default();
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

    /// Number of accesses, some of which may have expired.
    pub(super) fn count(&self) -> usize {
        self.grants.len()
    }

    /// The holder whose grant of this access ends last.
    pub(super) fn longest(&self, access: &Access) -> Option<&GrantHolder<T>> {
        self.grants.get(access)?.iter().max_by_key(|holder| holder.end)
    }

    /// Accesses of the same address at `now` that this one replaces, such as a forward of the same port to another
    /// target.
    pub(super) fn conflicting(&self, access: &Access, now: T) -> Vec<Access> {
        let Some(lowest) = access.target.first_alternative() else { return Vec::new() };
        let all = self.grants.range(Access { target: lowest, ..*access }..);
        let same = all.take_while(|(other, _)| *other == access || access.excludes(other));
        let others = same.filter(|(other, holders)| {
            *other != access && holders.iter().any(|holder| holder.end.plus(LINGER) > now)
        });
        others.map(|(other, _)| *other).collect()
    }

    /// Removes an access with all its holders.
    pub(super) fn remove_access(&mut self, access: &Access) {
        let Some(holders) = self.grants.remove(access) else { return };
        decrement(&mut self.filled, access);
        for holder in holders {
            if let Some(own) = self.clients.get_mut(&holder.client) {
                own.remove(access);
            }
        }
    }

    /// Accesses and their holders at `now` that are intervals of the same kind and share addresses with this one.
    pub(super) fn overlapping(
        &self,
        access: &Access,
        now: T,
    ) -> impl Iterator<Item = (&Access, &GrantHolder<T>)> {
        let (kind, link, from) = (GrantKind::of(access), access.link, access.from);
        // Two prefixes are nested or disjoint: look for those around this one and those within it.
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
        let overlapping = around.chain(within);
        let overlapping =
            overlapping.filter(move |(other, _)| other.link == link && GrantKind::of(other) == kind);
        overlapping.flat_map(move |(other, holders)| {
            holders.iter().filter(move |holder| holder.end > now).map(move |holder| (other, holder))
        })
    }

    /// All active grants, once for each holder.
    pub(super) fn live(&self, now: T) -> Vec<ActiveGrant> {
        let each = self.grants.iter().flat_map(|(&access, holders)| {
            holders.iter().filter(|holder| holder.end > now).map(move |holder| holder.live(access, now))
        });
        each.collect()
    }

    /// The changes that open all active grants in the kernel.
    pub(super) fn changes(&self, now: T) -> Vec<ElementChange<T>> {
        let mut changes = self.all_changes();
        changes.retain(|change| change.holder.as_ref().is_some_and(|holder| holder.end > now));
        changes
    }

    /// The same for all recorded grants, expired or not.
    pub(super) fn all_changes(&self) -> Vec<ElementChange<T>> {
        let longest = |holders: &[GrantHolder<T>]| holders.iter().max_by_key(|holder| holder.end).cloned();
        let by_access = self.grants.iter().filter_map(|(&access, holders)| Some((access, longest(holders)?)));
        by_access
            .map(|(access, holder)| ElementChange { access, holder: Some(holder), before: WasOpen::Open })
            .collect()
    }

    /// The changes that revoke these grants, and the grants that end.
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
            // It may have been used already, so it is not added again.
            let holder = holder.filter(|_| !matches!(access.target, AccessTarget::Once(_)));
            changes.push(ElementChange { access, holder, before: WasOpen::Open });
        }
        (changes, closed)
    }

    /// Removes these grants from the table.
    pub(super) fn remove(&mut self, which: &dyn Fn(&ActiveGrant) -> bool, now: T) {
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
                decrement(filled, &access);
            }
            !holders.is_empty()
        });
        clients.retain(|_, own| !own.is_empty());
    }
}

/// The set that holds an access: its kind, and whether it is IPv4.
fn set_key(access: &Access) -> (GrantKind, bool) {
    (GrantKind::of(access), access.from.first().is_ipv4())
}

fn decrement(filled: &mut BTreeMap<(GrantKind, bool), usize>, access: &Access) {
    if let Some(count) = filled.get_mut(&set_key(access)) {
        *count = count.saturating_sub(1);
    }
}

/// A lower bound of all accesses from a prefix, in the order of the table.
fn lowest(from: Prefix) -> Access {
    Access::new(from, AccessTarget::Ports(PortRange::LOWEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_core::auth::{SourceTranslation, TransitPort, TransitRoute};

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    fn holder(client: &str, end: u64) -> GrantHolder<Steady> {
        GrantHolder { client: client.parse().unwrap(), action: "open-ssh".parse().unwrap(), end: at(end) }
    }

    #[test]
    fn an_access_revoked_for_one_client_stays_open_for_another_holder() {
        let mut table = GrantTable::default();
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
            table.hold(access, holder(client, end));
        }
        let now = at(10);
        assert_eq!(table.live(now).len(), 3);
        let is_laptop = |live: &ActiveGrant| live.client.as_str() == "laptop";
        let (mut changes, closed) = table.without(&is_laptop, now);
        changes.sort_by_key(|change| change.access);
        assert_eq!(
            changes,
            [
                ElementChange { access: ssh, holder: Some(holder("phone", 30)), before: WasOpen::Open },
                ElementChange { access: web, holder: None, before: WasOpen::Open },
            ]
        );
        assert_eq!(closed.len(), 2);
        table.remove(&is_laptop, now);
        assert!(table.without(&is_laptop, now).0.is_empty());
        let left = ElementChange { access: ssh, holder: Some(holder("phone", 30)), before: WasOpen::Open };
        assert_eq!(table.changes(now), [left]);
    }

    #[test]
    fn a_grant_replaces_only_those_that_do_the_same_for_its_address_in_another_way() {
        let [a, b] = ["10.9.0.1", "10.9.0.2"].map(|host| host.parse().unwrap());
        let to = |host| Some(TransitPort { host, port: "tcp/80".parse().unwrap() });
        let transit = |to, source| AccessTarget::Transit(TransitRoute { to, source });
        let (kept, as_other) = (SourceTranslation::Kept, SourceTranslation::Address(b));
        let groups = [
            vec![AccessTarget::Ports("tcp/80".parse().unwrap())],
            vec![AccessTarget::Divert(a), AccessTarget::Divert(b)],
            vec![transit(None, kept), transit(None, SourceTranslation::Masquerade), transit(None, as_other)],
            vec![transit(to(a), kept), transit(to(a), as_other)],
            vec![transit(to(b), SourceTranslation::Masquerade), transit(to(b), kept)],
        ];
        let mut table = GrantTable::default();
        let access = |from: &str, target| Access::new(from.parse().unwrap(), target);
        for target in groups.iter().flatten() {
            table.hold(access("10.0.0.1", *target), holder("laptop", 60));
            table.hold(access("10.0.0.2", *target), holder("laptop", 60));
        }
        for group in groups {
            for target in &group {
                let others = group.iter().filter(|other| *other != target);
                let mut expected: Vec<_> = others.map(|other| access("10.0.0.1", *other)).collect();
                expected.sort_unstable();
                assert_eq!(table.conflicting(&access("10.0.0.1", *target), at(0)), expected, "{target}");
            }
        }
    }

    #[test]
    fn an_access_closed_by_one_action_stays_open_by_another() {
        let mut table = GrantTable::default();
        let access =
            Access::new("10.0.0.1".parse().unwrap(), AccessTarget::Ports("tcp/8080".parse().unwrap()));
        table.hold(access, holder("laptop", 60));
        table.hold(access, GrantHolder { action: "to-web".parse().unwrap(), ..holder("laptop", 30) });
        let (changes, closed) = table.without(&|live| live.action.as_str() == "to-web", at(0));
        assert_eq!(
            changes,
            [ElementChange { access, holder: Some(holder("laptop", 60)), before: WasOpen::Open }]
        );
        assert_eq!(closed.len(), 1);
    }
}
