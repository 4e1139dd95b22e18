//! The entries that open an access: entries of sets, or rules where there are no sets.

use std::net::SocketAddr;

use super::family::IpVersion;
use crate::firewall::grant_table::ElementChange;
use spa_knock_core::auth::{Access, AccessTarget};
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
}

/// One entry of a set, or one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetEntry {
    pub(super) kind: EntryKind,
    pub(super) from: Prefix,
    pub(super) ports: PortRange,
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
            && self.ports.overlap(other.ports)
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
        AccessTarget::Ports(ports) if from.single().is_some() => (EntryKind::Single, ports),
        AccessTarget::Ports(ports) => (EntryKind::Span, ports),
        AccessTarget::Once(port) => (EntryKind::Once, port.into()),
        AccessTarget::Forward { port, to } => (EntryKind::Forward(to), port.into()),
    };
    SetEntry {
        kind,
        from,
        ports,
        end: holder.as_ref().map(|holder| holder.end),
        comment: holder.as_ref().map(|holder| holder.comment()).unwrap_or_default(),
    }
}
