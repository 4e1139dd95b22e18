//! What stands for a passage: entries of sets, or rules where there are no sets.

use std::net::SocketAddr;

use super::family::IpVersion;
use crate::firewall::grant_table::ElementChange;
use spa_knock_core::auth::{Access, AccessTarget};
use spa_knock_core::knock::{BootTime, PortRange, Prefix};

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// Lets one address in.
    Single,
    /// Lets a range of addresses in.
    Span,
    /// Lets one address in for one connection.
    Once,
    /// Leads one address elsewhere; an unspecified address stands for this host.
    Forward(SocketAddr),
}

/// One entry, as it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetEntry {
    pub(super) kind: EntryKind,
    pub(super) from: Prefix,
    pub(super) ports: PortRange,
    /// None where nobody holds it any more.
    pub(super) end: Option<BootTime>,
    /// Names client and action.
    pub(super) comment: String,
}

impl SetEntry {
    pub(super) fn family(&self) -> IpVersion {
        IpVersion::of(self.from)
    }

    /// Whether both say something of the same packets in the same set.
    pub(super) fn meets(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.kind) == std::mem::discriminant(&other.kind)
            && self.from == other.from
            && self.ports.overlap(other.ports)
    }
}

/// All entries that these changes stand for, those that end first in front.
pub(super) fn of(changes: &[ElementChange<BootTime>]) -> Vec<SetEntry> {
    let mut entries: Vec<SetEntry> = changes.iter().map(of_change).collect();
    entries.sort_by_key(|entry| entry.end);
    entries
}

fn of_change(ElementChange { access, holder, .. }: &ElementChange<BootTime>) -> SetEntry {
    let Access { from, target: way, .. } = *access;
    let (kind, ports) = match way {
        AccessTarget::Ports(ports) if from.single().is_some() => (EntryKind::Single, ports),
        AccessTarget::Ports(ports) => (EntryKind::Span, ports),
        AccessTarget::Once(door) => (EntryKind::Once, door.into()),
        AccessTarget::Forward { door, to } => (EntryKind::Forward(to), door.into()),
    };
    SetEntry {
        kind,
        from,
        ports,
        end: holder.as_ref().map(|holder| holder.end),
        comment: holder.as_ref().map(|holder| holder.comment()).unwrap_or_default(),
    }
}
