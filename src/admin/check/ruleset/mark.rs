//! The mark of packets, where a gate sets one bit of it.

use super::packet_class::Match;
use crate::firewall::PacketMark;

/// The bit of their marks that our gate sets, in mode `mark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) enum Mark {
    /// There is no such bit.
    None,
    /// They do not have it: no grant lets them in.
    Clear(PacketMark),
    /// They have it.
    Set(PacketMark),
}

impl Mark {
    /// The same before a gate that marks.
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
            // What other bits there are is not known; as a rule none is.
            true if value & !bit == 0 => Match::All,
            true => Match::Few,
        }
    }
}
