//! What can happen in a fleet.

use super::member::{Attempt, Progress};
use super::store::{Outcome, Response, Store};
use super::variant::Variant;
use super::{END, MARGIN, MEMBERS, PROCESSES, SENT_AT, State, TIMESTAMPS, Time, WINDOW};

/// What becomes of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// The member receives it.
    Received,
    /// It is lost.
    Lost,
    /// The member receives it later.
    Delayed,
}

/// A step of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// 15 s pass.
    Wait,
    /// A knock, or a copy of it, reaches a member.
    Deliver {
        /// The number of the knock.
        knock: usize,
        /// The number of the member.
        member: usize,
    },
    /// A member that waits for a response sends the same transaction again.
    Resend {
        /// The number of the knock.
        knock: usize,
        /// The number of the member.
        member: usize,
    },
    /// The store applies a transaction.
    Apply {
        /// The number of the knock.
        knock: usize,
        /// The number of the member.
        member: usize,
        /// The number of the member's process.
        process: usize,
        /// What becomes of the response.
        response: Delivery,
    },
    /// The delayed response reaches its member.
    Receive,
    /// No response arrives in time: the member refuses the knock with status 7.
    GiveUp {
        /// The number of the knock.
        knock: usize,
        /// The number of the member.
        member: usize,
    },
    /// A member crashes and loses its replay memory. Its record in the store expires.
    Crash(usize),
    /// It starts again.
    Restart(usize),
    /// A member deletes old claims.
    Collect(usize),
    /// The store is restored from a snapshot: it has lost claims, of which each bit stands for one, and its floor.
    Restore(u8),
    /// The administrator runs `fleet accept-store` on a member.
    Accept(usize),
}

impl State {
    /// The actions that are possible, and some that are not: [`Self::apply`] returns false for them.
    pub(super) fn actions(&self, actions: &mut Vec<Action>) {
        actions.push(Action::Wait);
        for member in 0..MEMBERS {
            for knock in 0..TIMESTAMPS.len() {
                actions.push(Action::Deliver { knock, member });
                actions.push(Action::Resend { knock, member });
                actions.push(Action::GiveUp { knock, member });
                for process in (0..PROCESSES).filter(|process| self.requests[member][*process][knock] > 0) {
                    for response in [Delivery::Received, Delivery::Lost, Delivery::Delayed] {
                        actions.push(Action::Apply { knock, member, process, response });
                    }
                }
            }
            actions.extend([
                Action::Crash(member),
                Action::Restart(member),
                Action::Collect(member),
                Action::Accept(member),
            ]);
        }
        actions.push(Action::Receive);
        if self.store.generation == 0 {
            actions.extend((0..1 << TIMESTAMPS.len()).map(Action::Restore));
        }
    }

    /// Changes the state; returns whether the action was possible.
    pub(super) fn apply(&mut self, action: Action, variant: Variant) -> bool {
        let is_possible = match action {
            Action::Wait => self.time < END && self.wait(),
            Action::Deliver { knock, member } => self.deliver(knock, member),
            Action::Resend { knock, member } => self.resend(knock, member),
            Action::Apply { knock, member, process, response } => {
                self.apply_request(Attempt { knock, member, process }, response, variant)
            }
            Action::Receive => self.receive(variant),
            Action::GiveUp { knock, member } => self.give_up(knock, member, variant),
            Action::Crash(member) => self.crash(member, variant),
            Action::Restart(member) => self.restart(member),
            Action::Collect(member) => self.collect(member, variant),
            Action::Restore(lost) => self.restore(lost, variant),
            Action::Accept(member) => self.accept_store(member, variant),
        };
        if is_possible {
            self.forget_irrelevant(variant);
        }
        is_possible
    }

    fn wait(&mut self) -> bool {
        self.time += 1;
        true
    }

    fn deliver(&mut self, knock: usize, number: usize) -> bool {
        let (clock, timestamp) = (self.clock(number), TIMESTAMPS[knock]);
        let member = &mut self.members[number];
        let is_new = member.progress[knock] == Progress::None && member.accepts(timestamp, clock);
        if self.time < SENT_AT[knock] || !is_new {
            return false;
        }
        member.remember(timestamp);
        member.progress[knock] = Progress::Waiting;
        self.send(knock, number);
        true
    }

    fn resend(&mut self, knock: usize, number: usize) -> bool {
        let is_waiting = self.members[number].progress[knock] == Progress::Waiting;
        if !is_waiting || !self.faults.spend(|faults| &mut faults.resends) {
            return false;
        }
        self.send(knock, number);
        true
    }

    fn send(&mut self, knock: usize, number: usize) {
        self.requests[number][self.members[number].process][knock] += 1;
    }

    pub(super) fn is_waiting(&self, attempt: Attempt) -> bool {
        let member = &self.members[attempt.member];
        member.process == attempt.process && member.progress[attempt.knock] == Progress::Waiting
    }

    fn apply_request(&mut self, attempt: Attempt, delivery: Delivery, variant: Variant) -> bool {
        let copies = &mut self.requests[attempt.member][attempt.process][attempt.knock];
        let Some(left) = copies.checked_sub(1) else { return false };
        *copies = left;
        let is_awaited = self.is_waiting(attempt);
        let is_possible = match delivery {
            Delivery::Received => true,
            // If the transaction is not sent again, this is the same as to give up before the store applies it.
            Delivery::Lost => is_awaited && (self.faults.can_resend() || left > 0),
            // A delay changes nothing unless the member trusts another store in the meantime.
            Delivery::Delayed => {
                let trusted = self.members[attempt.member].generation;
                is_awaited && self.delayed.is_none() && trusted != Some(self.store.generation)
            }
        };
        if !is_possible {
            return false;
        }
        let is_below = TIMESTAMPS[attempt.knock] <= self.store.floor;
        let before = self.store.claims[attempt.knock];
        let response = self.store.claim(attempt, variant);
        let is_claimed = before != self.store.claims[attempt.knock];
        self.flaws.claimed_below_floor |= is_below && is_claimed;
        match delivery {
            Delivery::Received if is_awaited => self.settle(response, variant),
            Delivery::Delayed => self.delayed = Some(response),
            // A response for which no one waits is ignored.
            _ => {}
        }
        true
    }

    fn receive(&mut self, variant: Variant) -> bool {
        let Some(response) = self.delayed.take() else { return false };
        self.settle(response, variant);
        true
    }

    /// A member receives the outcome that it waits for.
    fn settle(&mut self, response: Response, variant: Variant) {
        let attempt = response.attempt;
        let member = &mut self.members[attempt.member];
        let is_trusted = match variant {
            Variant::RestoreSeenByRevision => response.revision >= member.revision,
            _ => member.generation == Some(response.generation),
        };
        member.revision = member.revision.max(response.revision);
        member.progress[attempt.knock] = if is_trusted { Progress::Settled } else { Progress::Refused };
        if is_trusted && response.outcome == Outcome::Won {
            self.acts[attempt.knock] += 1;
        }
        self.delayed = self.delayed.filter(|other| other.attempt != attempt);
    }

    fn give_up(&mut self, knock: usize, number: usize, variant: Variant) -> bool {
        let member = &mut self.members[number];
        let attempt = Attempt { knock, member: number, process: member.process };
        if member.progress[knock] != Progress::Waiting {
            return false;
        }
        member.progress[knock] = Progress::Refused;
        self.delayed = self.delayed.filter(|response| response.attempt != attempt);
        if variant == Variant::ActsOnUnknown {
            self.acts[knock] += 1;
            self.flaws.acted_on_unknown = true;
        }
        true
    }

    fn crash(&mut self, number: usize, variant: Variant) -> bool {
        if !self.members[number].is_up || !self.faults.spend(|faults| &mut faults.crashes) {
            return false;
        }
        self.members[number].crash();
        if variant == Variant::ForgetsStore {
            self.members[number].generation = None;
        }
        self.delayed = self.delayed.filter(|response| response.attempt.member != number);
        true
    }

    fn restart(&mut self, number: usize) -> bool {
        let member = &mut self.members[number];
        if member.is_up {
            return false;
        }
        member.is_up = true;
        member.generation = member.generation.or(Some(self.store.generation));
        true
    }

    /// Garbage collection by one member. Records of members that are down have expired.
    pub(super) fn collect(&mut self, number: usize, variant: Variant) -> bool {
        let up = |member: &usize| self.members[*member].is_up;
        let mut clocks: Vec<Time> = (0..MEMBERS).filter(up).map(|member| self.clock(member)).collect();
        clocks.sort_unstable();
        let middle = if variant == Variant::MedianIsTheHigher {
            clocks.len() / 2
        } else {
            clocks.len().saturating_sub(1) / 2
        };
        let Some(median) = clocks.get(middle).copied() else { return false };
        let agrees = |clock: Time| (clock - median).abs() <= WINDOW / 2;
        let all = variant == Variant::FloorByHighestClock;
        let base = match all {
            true => clocks.last().copied(),
            false => clocks.iter().copied().find(|clock| agrees(*clock)),
        };
        let to = base.unwrap_or(median) - 2 * WINDOW;
        if !up(&number) || !(all || agrees(self.clock(number))) || self.store.floor >= to {
            return false;
        }
        self.store.collect(to, variant);
        true
    }

    fn restore(&mut self, lost: u8, variant: Variant) -> bool {
        let is_lost = |knock: usize| lost & 1 << knock != 0;
        let store = &mut self.store;
        if store.generation > 0
            || (0..TIMESTAMPS.len()).any(|knock| is_lost(knock) && store.claims[knock].is_none())
        {
            return false;
        }
        if !self.faults.spend(|faults| &mut faults.restores) {
            return false;
        }
        for (_, claim) in store.claims.iter_mut().enumerate().filter(|(knock, _)| is_lost(*knock)) {
            *claim = None;
            if variant == Variant::RestoreSeenByRevision {
                store.revision = store.revision.saturating_sub(1);
            }
        }
        *store = Store { generation: 1, floor: -1, ..*store };
        true
    }

    /// Raises the floor, then trusts the store. All members must be up: the floor depends on their clocks.
    pub(super) fn accept_store(&mut self, number: usize, variant: Variant) -> bool {
        let is_known = self.members[number].generation == Some(self.store.generation);
        let is_up = self.members[number].is_up
            && (variant == Variant::AcceptsByOwnClock || self.members.iter().all(|member| member.is_up));
        if is_known || !is_up {
            return false;
        }
        let clock = match variant {
            Variant::AcceptsByOwnClock => Some(self.clock(number)),
            _ => (0..MEMBERS).map(|member| self.clock(member)).max(),
        };
        let to = clock.unwrap_or_default() + WINDOW + MARGIN;
        if variant != Variant::AcceptsWithoutFloor {
            self.store.floor = self.store.floor.max(to);
            self.store.write(variant);
        }
        let member = &mut self.members[number];
        member.generation = Some(self.store.generation);
        member.revision = self.store.revision;
        // A response to a transaction that was sent before is not trusted.
        if variant != Variant::AcceptKeepsAttempts {
            for progress in member.progress.iter_mut().filter(|progress| **progress == Progress::Waiting) {
                *progress = Progress::Refused;
            }
            self.delayed = self.delayed.filter(|response| response.attempt.member != number);
        }
        true
    }
}
