//! The entries that open an access: entries of sets, or rules where there are no sets.

use std::net::{Ipv4Addr, SocketAddr};

use super::family::IpVersion;
use crate::firewall::grant_table::ElementChange;
use spa_knock_core::auth::{Access, AccessTarget, SourceTranslation, TransitPort, TransitRoute};
use spa_knock_core::knock::{BootTime, PortRange, Prefix};

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// Admits one address.
    Single,
    /// Admits a range of addresses.
    Span,
    /// Admits one address for one connection.
    Once,
    /// Forwards one address to this target; an unspecified address means this host.
    Forward(SocketAddr),
    /// Diverts all packets of one address to this host.
    Divert(Ipv4Addr),
    /// Lets packets of one address to this host pass, with this source address.
    Route(Ipv4Addr, SourceTranslation),
    /// The same for all packets that are routed.
    Transit(SourceTranslation),
}

impl EntryKind {
    /// Whether it needs a rule of its own, also where there are sets: the kernel ends its effect, the daemon removes it.
    pub(super) const fn has_rule(self) -> bool {
        match self {
            Self::Single | Self::Span | Self::Once => false,
            Self::Forward(_) | Self::Divert(_) => true,
            Self::Route(_, source) | Self::Transit(source) => !matches!(source, SourceTranslation::Kept),
        }
    }

    /// The host that a route leads to.
    const fn host(self) -> Option<Ipv4Addr> {
        match self {
            Self::Route(host, _) => Some(host),
            _ => None,
        }
    }
}

/// One entry of a set, or one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetEntry {
    pub(super) kind: EntryKind,
    pub(super) from: Prefix,
    /// `None` for all packets.
    pub(super) ports: Option<PortRange>,
    /// `None` if it has no holder left.
    pub(super) end: Option<BootTime>,
    /// Client and action.
    pub(super) comment: String,
}

impl SetEntry {
    pub(super) fn family(&self) -> IpVersion {
        IpVersion::of(self.from)
    }

    /// Whether both match the same packets in the same set.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.kind) == std::mem::discriminant(&other.kind)
            && self.from == other.from
            && self.kind.host() == other.kind.host()
            && match (self.ports, other.ports) {
                (Some(ports), Some(others)) => ports.overlap(others),
                _ => true,
            }
    }
}

/// The entries for these changes, sorted by end.
pub(super) fn of(changes: &[ElementChange<BootTime>]) -> Vec<SetEntry> {
    let mut entries: Vec<SetEntry> = changes.iter().map(of_change).collect();
    entries.sort_by_key(|entry| entry.end);
    entries
}

fn of_change(ElementChange { access, holder, .. }: &ElementChange<BootTime>) -> SetEntry {
    let Access { from, target, .. } = *access;
    let (kind, ports) = match target {
        AccessTarget::Ports(ports) if from.single().is_some() => (EntryKind::Single, Some(ports)),
        AccessTarget::Ports(ports) => (EntryKind::Span, Some(ports)),
        AccessTarget::Once(port) => (EntryKind::Once, Some(port.into())),
        AccessTarget::Forward { port, to } => (EntryKind::Forward(to), Some(port.into())),
        AccessTarget::Divert(to) => (EntryKind::Divert(to), None),
        AccessTarget::Transit(TransitRoute { to: Some(TransitPort { host, port }), source }) => {
            (EntryKind::Route(host, source), Some(port.into()))
        }
        AccessTarget::Transit(TransitRoute { to: None, source }) => (EntryKind::Transit(source), None),
    };
    SetEntry {
        kind,
        from,
        ports,
        end: holder.as_ref().map(|holder| holder.end),
        comment: holder.as_ref().map(|holder| holder.comment()).unwrap_or_default(),
    }
}
