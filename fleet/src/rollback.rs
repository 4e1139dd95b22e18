//! Whether the store has gone back: another cluster, an earlier revision, or a lower floor than was seen before. A claim
//! that such a store grants may have been granted before.
//!
//! Pure: the keeper keeps the mark on disk, fsynced, and gives it back at the next start.

use std::fmt;
use std::str::FromStr;

use spa_knock_core::knock::Timestamp;

use crate::client::StoreHeader;

/// The latest that a member has seen of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreMark {
    cluster_id: u64,
    revision: u64,
    floor: Timestamp,
}

/// Why the store is not the one that the member knows, or not as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WentBack {
    /// It was set up again, or it is another one.
    #[error("the store is another cluster ({found:016x}, not {known:016x})")]
    Cluster {
        /// The cluster that the member knows.
        known: u64,
        /// The cluster that has answered.
        found: u64,
    },
    /// It was restored from a snapshot.
    #[error("the store went back: it is at revision {found}, after {known} was seen")]
    Revision {
        /// The highest revision seen.
        known: u64,
        /// The revision of the answer.
        found: u64,
    },
    /// Its floor fell, which no member does.
    #[error("the floor of the store fell from {known} to {found}")]
    Floor {
        /// The highest floor seen, in milliseconds.
        known: u64,
        /// The floor in the store.
        found: u64,
    },
}

/// What the revision of an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// The revision may be an earlier one: the answer is of one member of the store alone.
    Stale,
    /// All that was written before the request.
    Read,
    /// The request has written, which takes a revision that no one has seen. So a restored store is recognized although
    /// this write brings it up to the revision that was seen last.
    Write,
}

/// A text is not a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a mark of a store: CLUSTER REVISION FLOOR, each with 16 hex digits")]
pub struct InvalidMark;

impl StoreMark {
    /// The mark of a store that answers for the first time.
    #[must_use]
    pub fn first(header: StoreHeader) -> Self {
        Self { cluster_id: header.cluster_id, revision: header.revision, floor: Timestamp::default() }
    }

    /// Only the cluster is known.
    #[must_use]
    pub fn of_cluster(cluster_id: u64) -> Self {
        Self { cluster_id, revision: 0, floor: Timestamp::default() }
    }

    /// Compares an answer with this mark, which must have been read *before* the request was sent: another answer may
    /// have raised the mark since.
    ///
    /// # Errors
    /// If the store went back.
    pub fn check(&self, header: StoreHeader, kind: AnswerKind) -> Result<(), WentBack> {
        if header.cluster_id != self.cluster_id {
            return Err(WentBack::Cluster { known: self.cluster_id, found: header.cluster_id });
        }
        let lowest = match kind {
            AnswerKind::Stale => 0,
            AnswerKind::Read => self.revision,
            AnswerKind::Write => self.revision.saturating_add(1),
        };
        if header.revision < lowest {
            return Err(WentBack::Revision { known: self.revision, found: header.revision });
        }
        Ok(())
    }

    /// Records a later revision.
    pub fn advance(&mut self, header: StoreHeader) {
        self.revision = self.revision.max(header.revision);
    }

    /// Records a floor that was read from the store. Answers to requests that overlap may arrive in any order, so
    /// `before` is the highest floor when the request was sent.
    ///
    /// # Errors
    /// If it is lower than `before`.
    pub fn record_floor(&mut self, floor: Timestamp, before: Timestamp) -> Result<(), WentBack> {
        if floor < before {
            return Err(WentBack::Floor { known: before.as_millis(), found: floor.as_millis() });
        }
        self.floor = self.floor.max(floor);
        Ok(())
    }

    /// The id of the cluster.
    #[must_use]
    pub const fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The highest floor seen.
    #[must_use]
    pub const fn floor(&self) -> Timestamp {
        self.floor
    }

    /// The highest revision seen.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }
}

impl WentBack {
    /// What the administrator has to do.
    pub(crate) const HINT: &str = "find out why, then run spa-knockd fleet accept-store";
}

impl fmt::Display for StoreMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} {:016x} {:016x}", self.cluster_id, self.revision, self.floor.as_millis())
    }
}

impl FromStr for StoreMark {
    type Err = InvalidMark;

    fn from_str(text: &str) -> Result<Self, InvalidMark> {
        let mut parts = text.split(' ').map(|part| crate::keys::hex16(part.as_bytes()).ok_or(InvalidMark));
        let mut next = || parts.next().unwrap_or(Err(InvalidMark));
        let mark = Self { cluster_id: next()?, revision: next()?, floor: Timestamp::from_millis(next()?) };
        match parts.next() {
            None => Ok(mark),
            Some(_) => Err(InvalidMark),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(cluster_id: u64, revision: u64) -> StoreHeader {
        StoreHeader { cluster_id, revision, ..StoreHeader::default() }
    }

    #[test]
    fn a_store_that_went_back_is_recognized() {
        let mut mark = StoreMark::first(header(7, 10));
        assert_eq!(mark.check(header(7, 10), AnswerKind::Read), Ok(()));
        mark.advance(header(7, 12));
        mark.advance(header(7, 11));
        let cases = [
            (header(7, 11), AnswerKind::Read, Err(WentBack::Revision { known: 12, found: 11 })),
            (header(7, 12), AnswerKind::Read, Ok(())),
            (header(7, 12), AnswerKind::Write, Err(WentBack::Revision { known: 12, found: 12 })),
            (header(7, 13), AnswerKind::Write, Ok(())),
            (header(7, 1), AnswerKind::Stale, Ok(())),
            (header(8, 99), AnswerKind::Stale, Err(WentBack::Cluster { known: 7, found: 8 })),
        ];
        for (answer, kind, verdict) in cases {
            assert_eq!(mark.check(answer, kind), verdict, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_that_was_overtaken_by_a_later_one_does_not_go_back() {
        let mut mark = StoreMark::first(header(7, 10));
        let before = mark;
        mark.advance(header(7, 12));
        assert_eq!(before.check(header(7, 11), AnswerKind::Read), Ok(()));
        let [low, middle, high] = [1, 2, 3].map(Timestamp::from_millis);
        assert_eq!(mark.record_floor(high, low), Ok(()));
        assert_eq!(mark.record_floor(middle, low), Ok(()));
        assert_eq!(mark.record_floor(low, mark.floor()), Err(WentBack::Floor { known: 3, found: 1 }));
        assert_eq!(mark.floor(), high);
    }

    proptest! {
        #[test]
        fn a_mark_is_read_as_it_was_written(cluster_id: u64, revision: u64, floor: u64, other: String) {
            let mark = StoreMark { cluster_id, revision, floor: Timestamp::from_millis(floor) };
            prop_assert_eq!(mark.to_string().parse(), Ok(mark));
            let extended = format!("{mark} {other}");
            prop_assert_eq!(extended.parse::<StoreMark>(), Err(InvalidMark));
        }
    }
}
