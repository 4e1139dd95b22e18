//! What is checked in every state, beyond what has happened.

use super::member::Progress;
use super::variant::Variant;
use super::{MARGIN, MEMBERS, State, TIMESTAMPS, WINDOW};

impl State {
    /// Whether a fresh knock acts after all members have been started, a restored store has been accepted, and some time
    /// has passed in which old claims were deleted. The members' clocks stay as they are.
    pub(super) fn heals(&self, variant: Variant) -> bool {
        let mut healed = *self;
        for member in &mut healed.members {
            member.is_up = true;
            member.generation = member.generation.or(Some(self.store.generation));
        }
        for member in 0..MEMBERS {
            healed.accept_store(member, variant);
        }
        // Longer than `accept-store` makes everyone wait.
        healed.time += WINDOW + MARGIN + self.skew.max(0) + 1;
        for member in 0..MEMBERS {
            healed.collect(member, variant);
        }
        let timestamp = healed.time;
        let acts = |number: usize| {
            let member = &healed.members[number];
            member.accepts(timestamp, healed.clock(number))
                && timestamp > healed.store.floor
                && member.generation == Some(healed.store.generation)
        };
        (0..MEMBERS).any(acts)
    }

    /// Whether a knock that a member has refused, because the outcome of its claim was unknown, is open on all members.
    pub(super) fn opens_refused(&self, variant: Variant) -> bool {
        variant == Variant::GrantWithClaim
            && (0..TIMESTAMPS.len()).any(|knock| {
                self.store.claims[knock].is_some_and(|claimant| {
                    let member = &self.members[claimant.member];
                    member.process == claimant.process && member.progress[knock] == Progress::Refused
                })
            })
    }
}
