//! How long the client waits for the other servers after the first grant. Pure: uses no clock.

use std::time::Duration;

use crate::client::knock::attempt::LINGER;
use spa_knock_core::knock::Steady;

/// A server that has not replied this long after the first knock has received it twice (the resend follows after
/// 250 ms), or neither arrived.
const RESENT: Duration = Duration::from_millis(280);

/// The first grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FirstGrant {
    /// When it arrived.
    pub(super) at: Steady,
    /// From the granted knock to its reply.
    pub(super) round_trip: Duration,
}

/// Whether a server has replied without deciding: it saw another address, and a second knock follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecondKnock {
    /// At least one has.
    Pending,
    /// None has.
    No,
}

/// Until when to wait for the others: until servers that are three times as far away have replied, and at least until
/// the resend can have got its reply. `start` is the time of the first knock.
pub(super) fn end_of_grace(start: Steady, grant: FirstGrant, second: SecondKnock) -> Steady {
    // One round trip is over.
    let farther = grant.round_trip.saturating_mul(2);
    let end = grant.at.plus(farther).max(start.plus(RESENT));
    match second {
        SecondKnock::No => end,
        SecondKnock::Pending => end.plus(LINGER).plus(farther),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::clock;

    #[test]
    fn the_others_get_time_for_a_resend_or_three_round_trips() {
        let begin = clock::steady();
        let at = |ms| begin.plus(Duration::from_millis(ms));
        for (granted, round_trip, second, end) in [
            // Near: the resend decides.
            (1, 1, SecondKnock::No, 280),
            (90, 90, SecondKnock::No, 280),
            // Far: three round trips.
            (100, 100, SecondKnock::No, 300),
            (400, 400, SecondKnock::No, 1_200),
            // Behind NAT, the grant is the reply to a second knock.
            (500, 200, SecondKnock::No, 900),
            // A second knock is sent after the linger time.
            (1, 1, SecondKnock::Pending, 382),
            (100, 100, SecondKnock::Pending, 600),
        ] {
            let grant = FirstGrant { at: at(granted), round_trip: Duration::from_millis(round_trip) };
            assert_eq!(end_of_grace(at(0), grant, second), at(end), "{granted} {round_trip}");
        }
    }
}
