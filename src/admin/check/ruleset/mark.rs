//! The mark of packets, of which our gate sets one bit.

use super::packet_class::Match;
use crate::firewall::PacketMark;

/// The bit of the packets' marks that our gate sets in mode `mark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) enum Mark {
    /// Another mode: there is no such bit.
    None,
    /// The packets do not have it: no grant lets them in.
    Clear(PacketMark),
    /// The packets have it.
    Set(PacketMark),
}

impl Mark {
    /// The mark before our gate sets it.
    pub(in crate::admin::check) const fn cleared(self) -> Self {
        match self {
            Self::Set(mark) => Self::Clear(mark),
            other => other,
        }
    }

    /// Whether `mark & mask == value` holds.
    pub(in crate::admin::check) fn holds(self, mask: u64, value: u64) -> Match {
        let (bit, set) = match self {
            Self::None => return Match::Few,
            Self::Clear(mark) => (u64::from(mark.bit()), false),
            Self::Set(mark) => (u64::from(mark.bit()), true),
        };
        if mask & bit == 0 {
            return Match::Few;
        }
        match (value & bit != 0) == set {
            false => Match::No,
            // The other bits are unknown; usually none is set.
            true if value & !bit == 0 => Match::All,
            true => Match::Few,
        }
    }
}
