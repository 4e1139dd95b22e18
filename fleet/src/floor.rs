//! The floor: how garbage is collected without a clock deciding what was claimed. A claim compares the knock's timestamp
//! with the floor in the same transaction in which it is made; so claims at or below the floor can be deleted.
//!
//! A wrong clock can only cost liveness: knocks above the true time's window are refused until clocks catch up.

use std::time::Duration;

use spa_knock_core::knock::Timestamp;

use crate::client::{Compare, Txn, TxnOp, TxnResponse, TxnResult};
use crate::keys::{KeySpace, StoreKey, hex16};
use crate::names::MemberName;

/// The member with the lowest name raises the floor so often.
const TURN: Duration = Duration::from_secs(30);
/// The others do if it has not.
const SUBSTITUTE: Duration = Duration::from_secs(60);
/// How far a store that was accepted again raises its floor above now + window.
const ACCEPT_MARGIN: Duration = Duration::from_secs(60);

/// What a member has to do about the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum GarbageVerdict {
    /// Raise the floor to this time, if it is lower.
    Raise(Timestamp),
    /// Another member will, or it was just done.
    Wait,
    /// The own clock is ahead of (or behind) the median: warn, and do not raise.
    OwnClockOff(ClockOffset),
}

/// How far a clock is off the median of all live members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockOffset {
    /// It is ahead by this much.
    Ahead(Duration),
    /// It is behind by this much, or equal.
    Behind(Duration),
}

/// The clock of one live member, as far as it is known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberClock {
    /// The member.
    pub name: MemberName,
    /// Its clock.
    pub clock: Timestamp,
}

impl ClockOffset {
    /// Of `clock` from `median`.
    #[must_use]
    pub fn between(clock: Timestamp, median: Timestamp) -> Self {
        let distance = clock.distance(median);
        if clock > median { Self::Ahead(distance) } else { Self::Behind(distance) }
    }

    /// The distance.
    #[must_use]
    pub const fn distance(self) -> Duration {
        match self {
            Self::Ahead(distance) | Self::Behind(distance) => distance,
        }
    }
}

/// The median of the clocks: of an even number, the lower one of the middle two, which raises the floor less.
#[must_use]
pub fn median(clocks: &[MemberClock]) -> Option<Timestamp> {
    let mut sorted: Vec<_> = clocks.iter().map(|member| member.clock).collect();
    sorted.sort_unstable();
    let middle = sorted.len().checked_sub(1)? / 2;
    sorted.get(middle).copied()
}

/// Decides for the member `own` whether it raises the floor now. `since_raise` is how long ago the floor last changed, or
/// how long the member has run without seeing it change.
pub fn decide(
    own: &MemberName,
    clocks: &[MemberClock],
    window: Duration,
    floor: Timestamp,
    since_raise: Duration,
) -> GarbageVerdict {
    let Some(median) = median(clocks) else { return GarbageVerdict::Wait };
    let Some(mine) = clocks.iter().find(|member| member.name == *own) else { return GarbageVerdict::Wait };
    let tolerance = window.checked_div(2).unwrap_or_default();
    let counts = |member: &&MemberClock| member.clock.distance(median) <= tolerance;
    if !counts(&mine) {
        return GarbageVerdict::OwnClockOff(ClockOffset::between(mine.clock, median));
    }
    let counted = || clocks.iter().filter(counts);
    let first = counted().map(|member| &member.name).min();
    let turn = if first == Some(own) { TURN } else { SUBSTITUTE };
    let lowest = counted().map(|member| member.clock).min().unwrap_or_default();
    let target = lowest.minus(window.saturating_mul(2));
    if since_raise < turn || target <= floor {
        return GarbageVerdict::Wait;
    }
    GarbageVerdict::Raise(target)
}

/// The floor after which no knock that was ever fresh is accepted: for a new fleet, and for a store that went back. `clocks`
/// are those of all members: one that is ahead may have accepted knocks that are in the future of the others.
#[must_use]
pub fn above_everything(now: Timestamp, clocks: &[MemberClock], window: Duration) -> Timestamp {
    let latest = clocks.iter().map(|member| member.clock).fold(now, Timestamp::max);
    latest.plus(window).plus(ACCEPT_MARGIN)
}

/// Raises the floor and deletes the claims up to it: only upward, and only if there is a floor.
#[must_use]
pub fn raise(space: &KeySpace, floor: Timestamp) -> Txn {
    let key = space.path(&StoreKey::Floor);
    Txn {
        compare: vec![Compare::value_below(key.as_str(), value(floor))],
        success: vec![TxnOp::put(key.as_str(), value(floor)), TxnOp::Delete(space.claims_up_to(floor))],
        failure: vec![TxnOp::read(key)],
    }
}

/// Writes the first floor: only if there is none.
#[must_use]
pub fn create(space: &KeySpace, floor: Timestamp) -> Txn {
    let key = space.path(&StoreKey::Floor);
    Txn {
        compare: vec![Compare::absent(key.as_str())],
        success: vec![TxnOp::put(key.as_str(), value(floor))],
        failure: vec![TxnOp::read(key)],
    }
}

/// The floor that a transaction has not raised, because it is as high, or has not created, because it exists; nothing if
/// there is none.
#[must_use]
pub fn existing(response: &TxnResponse) -> Option<Timestamp> {
    response.responses.iter().find_map(|result| match result {
        TxnResult::Range(range) => range.kvs.first().and_then(|found| parse_value(&found.value)),
        _ => None,
    })
}

/// The floor as a value in the store.
#[must_use]
pub fn value(floor: Timestamp) -> String {
    format!("{:016x}", floor.as_millis())
}

/// The floor that a value means.
#[must_use]
pub fn parse_value(value: &[u8]) -> Option<Timestamp> {
    hex16(value).map(Timestamp::from_millis)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests panic on overflow")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);
    const NOW: u64 = 1_700_000_000_000;

    fn name(text: &str) -> MemberName {
        text.parse().unwrap()
    }

    fn clocks(offsets: &[(&str, i64)]) -> Vec<MemberClock> {
        let clock = |offset| Timestamp::from_millis(NOW.saturating_add_signed(offset));
        offsets
            .iter()
            .map(|(member, offset)| MemberClock { name: name(member), clock: clock(*offset) })
            .collect()
    }

    fn decision(own: &str, offsets: &[(&str, i64)], since: u64) -> GarbageVerdict {
        decide(&name(own), &clocks(offsets), WINDOW, Timestamp::default(), Duration::from_secs(since))
    }

    #[test]
    fn the_lowest_name_raises_to_the_lowest_clock_minus_two_windows() {
        let members = [("b", -4_000), ("a", 0), ("c", 2_000)];
        let target = GarbageVerdict::Raise(Timestamp::from_millis(NOW - 4_000 - 60_000));
        let cases = [
            ("a", 30, target),
            ("a", 29, GarbageVerdict::Wait),
            ("b", 30, GarbageVerdict::Wait),
            ("b", 60, target),
            ("unknown", 90, GarbageVerdict::Wait),
        ];
        for (own, since, verdict) in cases {
            assert_eq!(decision(own, &members, since), verdict, "{own} {since}");
        }
    }

    #[test]
    fn a_clock_off_the_median_neither_counts_nor_raises() {
        let members = [("a", 90_000), ("b", 0), ("c", -15_000)];
        let verdict = GarbageVerdict::OwnClockOff(ClockOffset::Ahead(Duration::from_secs(90)));
        assert_eq!(decision("a", &members, 90), verdict);
        // The lowest name is out, so the next one has the turn; its own clock is not the lowest.
        let target = GarbageVerdict::Raise(Timestamp::from_millis(NOW - 15_000 - 60_000));
        assert_eq!(decision("b", &members, 30), target);
        let members = [("a", -15_001), ("b", 0), ("c", 0)];
        let verdict = GarbageVerdict::OwnClockOff(ClockOffset::Behind(Duration::from_millis(15_001)));
        assert_eq!(decision("a", &members, 90), verdict);
    }

    #[test]
    fn of_two_clocks_that_differ_the_lower_one_counts() {
        let members = [("a", 100_000), ("b", 0)];
        assert!(matches!(decision("a", &members, 90), GarbageVerdict::OwnClockOff(_)));
        assert_eq!(decision("b", &members, 30), GarbageVerdict::Raise(Timestamp::from_millis(NOW - 60_000)));
    }

    proptest! {
        /// A knock that a member with a counted clock still accepts is never at or below the floor.
        #[test]
        fn the_floor_never_rises_above_what_a_member_accepts(
            offsets in proptest::collection::vec(-120_000_i64..120_000, 1..7),
            own in 0_usize..7,
            floor in 0_u64..(2 * NOW),
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "g"];
            let members: Vec<_> = names.into_iter().zip(offsets).collect();
            let clocks = clocks(&members);
            let own = names[own.min(members.len() - 1)];
            let floor = Timestamp::from_millis(floor);
            let verdict = decide(&name(own), &clocks, WINDOW, floor, Duration::from_secs(90));
            if let GarbageVerdict::Raise(target) = verdict {
                prop_assert!(target > floor);
                let median = median(&clocks).unwrap();
                for member in clocks.iter().filter(|member| member.clock.distance(median) <= WINDOW / 2) {
                    prop_assert!(target < member.clock.minus(WINDOW));
                }
            }
        }

        #[test]
        fn values_sort_like_times_and_are_read_as_written(a: u64, b: u64) {
            let [a, b] = [a, b].map(Timestamp::from_millis);
            prop_assert_eq!(value(a).cmp(&value(b)), a.cmp(&b));
            prop_assert_eq!(parse_value(value(a).as_bytes()), Some(a));
        }
    }
}
