//! The intervals of addresses and ports in the kernel. The kernel refuses overlapping intervals in one set, so
//! overlapping grants are split into intervals that do not overlap, each of which lasts as long as the longest grant
//! over it. A grant changes only the intervals that it overlaps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use crate::firewall::grant_table::{GrantHolder, LINGER};
use crate::firewall::kind::GrantKind;
use spa_knock_core::auth::{Access, AccessTarget};
use spa_knock_core::knock::{PortRange, Prefix, Protocol, Steady};

/// The widest prefixes that can be granted, for IPv4 and IPv6 (`grant-prefix` in the config).
const WIDEST: (u8, u8) = (16, 33);

/// A group of intervals that must not overlap each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Area {
    /// Port ranges of single addresses.
    Spans,
    /// Address prefixes.
    Nets,
    /// Link-local addresses of the interface with this index.
    Linked(NonZeroU32),
}

/// Addresses of one IP version and ports of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rectangle {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    pub(super) ports: PortRange,
}

/// One interval in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) area: Area,
    pub(super) rectangle: Rectangle,
    /// The holder whose grant of it ends last.
    pub(super) holder: GrantHolder<Steady>,
}

/// Where an interval begins. No two intervals begin at the same place.
type IntervalStart = (Area, IpAddr, Protocol, u16);

/// All intervals; no two of an area overlap.
#[derive(Debug, Default)]
pub(super) struct Plane(BTreeMap<IntervalStart, Interval>);

/// A change of the plane, for the kernel and for reverting it.
#[derive(Debug, Default)]
pub(super) struct Patch {
    removed: BTreeMap<IntervalStart, Interval>,
    added: BTreeSet<IntervalStart>,
}

impl Rectangle {
    fn of(access: &Access) -> Option<Self> {
        let AccessTarget::Ports(ports) = access.target else { return None };
        Some(Self { first: access.from.first(), last: access.from.last(), ports })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last && self.ports.overlap(other.ports)
    }

    /// The intersection.
    fn common(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        let (a, b) = (self.ports.bounds(), other.ports.bounds());
        let ports = PortRange::between(self.ports.protocol(), a.0.max(b.0), a.1.min(b.1))?;
        (first <= last && self.ports.overlap(other.ports)).then_some(Self { first, last, ports })
    }

    /// What remains without `cut`: at most four rectangles.
    fn without(&self, cut: &Self) -> Vec<Self> {
        let Some(common) = self.common(cut) else { return vec![*self] };
        let (low, high) = self.ports.bounds();
        let (cut_low, cut_high) = common.ports.bounds();
        let beside = |first, last| (first <= last).then_some(Self { first, last, ports: self.ports });
        let above = |low, high| {
            let ports = PortRange::between(self.ports.protocol(), low, high)?;
            Some(Self { ports, ..common })
        };
        let rest = [
            before(common.first).and_then(|last| beside(self.first, last)),
            after(common.last).and_then(|first| beside(first, self.last)),
            cut_low.checked_sub(1).and_then(|last| above(low, last)),
            cut_high.checked_add(1).and_then(|first| above(first, high)),
        ];
        rest.into_iter().flatten().collect()
    }

    /// The prefixes that together contain its addresses.
    pub(super) fn prefixes(&self) -> Vec<Prefix> {
        let mut prefixes = Vec::new();
        let mut next = Some(self.first);
        while let Some(first) = next.filter(|first| *first <= self.last) {
            let widest = (0..=128).map(|length| Prefix::of(first, length));
            let fits = |prefix: &Prefix| prefix.first() == first && prefix.last() <= self.last;
            let prefix = widest.into_iter().find(fits).unwrap_or_else(|| Prefix::from(first));
            prefixes.push(prefix);
            next = after(prefix.last());
        }
        prefixes
    }
}

impl Interval {
    /// The interval that opens this access, if it needs one.
    pub(super) fn of(access: &Access, holder: GrantHolder<Steady>) -> Option<Self> {
        Some(Self { area: area(access)?, rectangle: Rectangle::of(access)?, holder })
    }

    fn place(&self) -> IntervalStart {
        let Rectangle { first, ports, .. } = self.rectangle;
        (self.area, first, ports.protocol(), ports.bounds().0)
    }

    fn cut_to(&self, rectangle: Rectangle) -> Self {
        Self { rectangle, ..self.clone() }
    }
}

impl Plane {
    /// Opens an interval at `now`, except where one that lasts longer is already open.
    pub(super) fn open(&mut self, interval: &Interval, now: Steady, patch: &mut Patch) {
        let mut parts = vec![interval.rectangle];
        for old in self.overlapping(interval.area, &interval.rectangle) {
            if old.holder.end > now && old.holder.end > interval.holder.end {
                parts = parts.iter().flat_map(|part| part.without(&old.rectangle)).collect();
            } else {
                self.cut_out(&old, &interval.rectangle, now, patch);
            }
        }
        for part in parts {
            self.put(interval.cut_to(part), patch);
        }
    }

    /// Closes at `now`, within the addresses and ports of this interval, everything with the same holder.
    pub(super) fn close(&mut self, interval: &Interval, now: Steady, patch: &mut Patch) {
        let same = |old: &Interval| {
            (&old.holder.client, &old.holder.action) == (&interval.holder.client, &interval.holder.action)
        };
        for old in self.overlapping(interval.area, &interval.rectangle) {
            if same(&old) {
                self.cut_out(&old, &interval.rectangle, now, patch);
            }
        }
    }

    /// Opens the part of an interval that lies within the addresses and ports of `limits`.
    pub(super) fn open_within(
        &mut self,
        interval: &Interval,
        limits: &Interval,
        now: Steady,
        patch: &mut Patch,
    ) {
        if let Some(common) =
            interval.rectangle.common(&limits.rectangle).filter(|_| interval.area == limits.area)
        {
            self.open(&interval.cut_to(common), now, patch);
        }
    }

    /// Adopts an interval from the kernel unchanged. Returns `false` if it overlaps another one.
    pub(super) fn adopt(&mut self, interval: Interval) -> bool {
        let alone = self.overlapping(interval.area, &interval.rectangle).is_empty();
        if alone {
            self.0.insert(interval.place(), interval);
        }
        alone
    }

    /// The interval with exactly these addresses and ports.
    pub(super) fn get(&self, area: Area, rectangle: &Rectangle) -> Option<&Interval> {
        let place = (area, rectangle.first, rectangle.ports.protocol(), rectangle.ports.bounds().0);
        self.0.get(&place).filter(|interval| interval.rectangle == *rectangle)
    }

    /// All intervals that are open at `now`.
    pub(super) fn live(&self, now: Steady) -> impl Iterator<Item = &Interval> {
        self.0.values().filter(move |interval| interval.holder.end > now)
    }

    /// Number of intervals, some of which may have expired.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Removes intervals that ended so long before `now` that the kernel has removed them too.
    pub(super) fn prune(&mut self, now: Steady) {
        self.0.retain(|_, interval| interval.holder.end.plus(LINGER) > now);
    }

    /// The intervals to delete from the kernel and those to add to it, for a patch that has just been made.
    pub(super) fn changes<'a>(
        &'a self,
        patch: &'a Patch,
    ) -> (impl Iterator<Item = &'a Interval>, impl Iterator<Item = &'a Interval>) {
        (patch.removed.values(), patch.added.iter().filter_map(|place| self.0.get(place)))
    }

    /// Restores the state before the patch.
    pub(super) fn revert(&mut self, patch: Patch) {
        for place in &patch.added {
            self.0.remove(place);
        }
        self.0.extend(patch.removed);
    }

    fn overlapping(&self, area: Area, rectangle: &Rectangle) -> Vec<Interval> {
        // No interval extends beyond the widest prefix around its first address.
        let Rectangle { first, last, .. } = *rectangle;
        let from = match area {
            Area::Spans => first,
            Area::Nets | Area::Linked(_) => {
                Prefix::of(first, if first.is_ipv4() { WIDEST.0 } else { WIDEST.1 }).first()
            }
        };
        let range = (area, from, Protocol::Tcp, 0)..=(area, last, Protocol::Udp, u16::MAX);
        let intervals = self.0.range(range).map(|(_, interval)| interval);
        intervals.filter(|interval| interval.rectangle.overlaps(rectangle)).cloned().collect()
    }

    /// Removes the part of an interval that lies in `cut`.
    fn cut_out(&mut self, old: &Interval, cut: &Rectangle, now: Steady, patch: &mut Patch) {
        self.take(old, now, patch);
        if old.holder.end > now {
            for rest in old.rectangle.without(cut) {
                self.put(old.cut_to(rest), patch);
            }
        }
    }

    fn take(&mut self, old: &Interval, now: Steady, patch: &mut Patch) {
        let place = old.place();
        let Some(interval) = self.0.remove(&place) else { return };
        let is_new = patch.added.remove(&place);
        // An interval that ended long ago is no longer in the kernel.
        if !is_new && interval.holder.end.plus(LINGER) > now {
            patch.removed.insert(place, interval);
        }
    }

    fn put(&mut self, interval: Interval, patch: &mut Patch) {
        let place = interval.place();
        patch.added.insert(place);
        self.0.insert(place, interval);
    }
}

impl Patch {
    /// Number of intervals that the patch adds.
    pub(super) fn added_count(&self) -> usize {
        self.added.len()
    }
}

/// The area of an access that is an interval.
fn area(access: &Access) -> Option<Area> {
    match GrantKind::of(access) {
        GrantKind::Range => Some(Area::Spans),
        GrantKind::Prefix => Some(Area::Nets),
        GrantKind::Linked => access.link.map(Area::Linked),
        GrantKind::Single
        | GrantKind::Once
        | GrantKind::Forward
        | GrantKind::Local
        | GrantKind::Divert
        | GrantKind::Transit => None,
    }
}

/// Whether these addresses fit into the widest prefix that can be granted.
pub(super) fn is_bounded(first: IpAddr, last: IpAddr) -> bool {
    Prefix::of(first, if first.is_ipv4() { WIDEST.0 } else { WIDEST.1 }).contains(last) && first <= last
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|v4| Ipv4Addr::from(v4).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|v6| Ipv6Addr::from(v6).into()),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|v4| Ipv4Addr::from(v4).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|v6| Ipv6Addr::from(v6).into()),
    }
}
