//! What stands for a passage: entries of sets, or rules where there are no sets.

use std::net::SocketAddr;
use std::time::Duration;

use super::family::Family;
use crate::auth::{Passage, Way};
use crate::firewall::grant_table::Change;
use crate::knock::{Ports, Prefix};

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) from: Prefix,
    pub(super) ports: Ports,
    pub(super) end: Duration,
    /// Names client and action.
    pub(super) comment: String,
}

impl Entry {
    pub(super) fn family(&self) -> Family {
        Family::of(self.from)
    }

    /// Whether both say something of the same packets in the same set.
    pub(super) fn meets(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.kind) == std::mem::discriminant(&other.kind)
            && self.from == other.from
            && self.ports.overlap(other.ports)
    }
}

/// All entries that these changes stand for, those that end first in front.
pub(super) fn of(changes: &[Change]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = changes.iter().map(of_change).collect();
    entries.sort_by_key(|entry| entry.end);
    entries
}

fn of_change(Change { passage, holder, .. }: &Change) -> Entry {
    let Passage { from, way, .. } = *passage;
    let (kind, ports) = match way {
        Way::Ports(ports) if from.single().is_some() => (Kind::Single, ports),
        Way::Ports(ports) => (Kind::Span, ports),
        Way::Once(door) => (Kind::Once, door.into()),
        Way::Forward { door, to } => (Kind::Forward(to), door.into()),
    };
    Entry {
        kind,
        from,
        ports,
        end: holder.as_ref().map(|holder| holder.end).unwrap_or_default(),
        comment: holder.as_ref().map(|holder| holder.comment()).unwrap_or_default(),
    }
}
