//! Fewer states: what can have no effect any more is removed from a state.

use super::member::{Attempt, Progress};
use super::store::Claimant;
use super::variant::Variant;
use super::{MEMBERS, PROCESSES, State, TIMESTAMPS, Time, WINDOW};

impl State {
    /// Makes states equal that differ only in what can have no effect any more. Clocks never go back, and the store at
    /// most once.
    pub(super) fn forget_irrelevant(&mut self, variant: Variant) {
        for knock in 0..TIMESTAMPS.len() {
            let timestamp = TIMESTAMPS[knock];
            let clocks: [Time; MEMBERS] = std::array::from_fn(|member| self.clock(member));
            for (member, clock) in self.members.iter_mut().zip(clocks) {
                let is_stale = clock - timestamp > WINDOW || timestamp <= member.floor;
                let progress = &mut member.progress[knock];
                let is_over = *progress == Progress::Refused && variant != Variant::GrantWithClaim;
                if *progress != Progress::Waiting && (is_stale || is_over) {
                    *progress = Progress::Settled;
                }
            }
            let is_awaited = self.members.iter().any(|member| member.progress[knock] == Progress::Waiting);
            if !is_awaited && clocks.iter().all(|clock| clock - timestamp > WINDOW) {
                self.forget_requests(knock, |_| true);
                self.store.claims[knock] = None;
                // But a violation stays visible.
                self.acts[knock] = if self.acts[knock] < 2 { 0 } else { 2 };
            }
            self.forget_claim(knock, variant);
        }
    }

    /// It matters by which attempt a knock is claimed only while this attempt waits.
    fn forget_claim(&mut self, knock: usize, variant: Variant) {
        let Some(claimant) = self.store.claims[knock] else { return };
        let attempt = Attempt { knock, member: claimant.member, process: claimant.process };
        let keeps = [Variant::AttemptsRepeat, Variant::GrantWithClaim].contains(&variant);
        if !keeps && claimant != Claimant::SETTLED && !self.is_waiting(attempt) {
            self.store.claims[knock] = Some(Claimant::SETTLED);
        }
        // Without effect, and the store cannot go back again.
        if self.store.generation > 0 && variant == Variant::Sound {
            let state = *self;
            self.forget_requests(knock, |attempt| !state.is_waiting(attempt));
        }
    }

    fn forget_requests(&mut self, knock: usize, forgets: impl Fn(Attempt) -> bool) {
        for member in 0..MEMBERS {
            for process in 0..PROCESSES {
                if forgets(Attempt { knock, member, process }) {
                    self.requests[member][process][knock] = 0;
                }
            }
        }
    }
}
