//! A fleet: members that share one server id, and a store in which each knock is claimed before it acts.
//!
//! The unit of time is 15 s, half a window. Anyone can deliver a knock to any member at any time and as often as they
//! like. Messages between members and store are delayed without limit, reordered and lost.

mod actions;
mod healing;
mod irrelevant;
mod member;
mod store;
mod variant;

use stateright::{Model, Property};

pub use actions::Action;
pub use variant::Variant;

use member::{Member, Progress};
use store::{Response, Store};

/// A point in time, or a time span, in units of 15 s.
pub(crate) type Time = i8;

/// The largest accepted difference between a timestamp and a member's clock.
const WINDOW: Time = 2;
/// How far `accept-store` raises the floor beyond the window.
const MARGIN: Time = 4;
/// The time at which the model ends.
const END: Time = 5;
/// The number of members.
const MEMBERS: usize = 2;
/// The number of processes that a member can have, one after another.
const PROCESSES: usize = 2;
/// The timestamps of the knocks. The last one is of a client whose clock is ahead, and is sent at the start.
const TIMESTAMPS: [Time; 3] = [1, 3, 7];
const SENT_AT: [Time; 3] = [1, 3, 0];

/// A model of a fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// What is wrong with the fleet.
    pub variant: Variant,
    /// How far the clock of the second member can be ahead of the first one's, which is correct: one fleet for each.
    pub skews: Vec<Time>,
    /// What can fail in one run.
    pub faults: Faults,
}

/// The number of faults that can still happen.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub struct Faults {
    /// In total.
    pub any: u8,
    /// A member crashes and loses its replay memory.
    pub crashes: u8,
    /// A member sends a transaction again.
    pub resends: u8,
    /// The store is restored from a snapshot.
    pub restores: u8,
}

impl Faults {
    /// One fault of each kind.
    pub const ALL: Self = Self { any: 3, crashes: 1, resends: 1, restores: 1 };

    fn can_resend(self) -> bool {
        self.any > 0 && self.resends > 0
    }

    fn spend(&mut self, of: fn(&mut Self) -> &mut u8) -> bool {
        let is_possible = self.any > 0 && *of(self) > 0;
        if is_possible {
            self.any -= 1;
            *of(self) -= 1;
        }
        is_possible
    }
}

/// A state of the fleet.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub struct State {
    time: Time,
    skew: Time,
    members: [Member; MEMBERS],
    store: Store,
    /// The number of copies of each attempt's transaction on their way to the store: by member, process and knock.
    requests: [[[u8; TIMESTAMPS.len()]; PROCESSES]; MEMBERS],
    /// A response that is delayed.
    delayed: Option<Response>,
    /// How often each knock has acted.
    acts: [u8; TIMESTAMPS.len()],
    faults: Faults,
    flaws: Flaws,
}

/// Violations that are visible only in the moment in which they happen.
#[derive(Debug, Clone, Copy, Default, Hash, PartialEq, Eq)]
struct Flaws {
    /// A knock at or below the floor was claimed.
    claimed_below_floor: bool,
    /// A knock acted although its claim had no known outcome.
    acted_on_unknown: bool,
}

impl State {
    fn clock(&self, member: usize) -> Time {
        self.time + if member == 0 { 0 } else { self.skew }
    }
}

/// No knock acts twice.
pub const ONCE: &str = "no knock acts twice in the fleet";
/// The floor refuses knocks.
pub const FLOOR: &str = "no knock at or below the floor is claimed";
/// An attempt without a response does not act.
pub const UNKNOWN: &str = "a claim whose outcome is unknown opens nothing on any member";
/// Nothing is refused forever.
pub const HEALED: &str = "after healing, a fresh knock acts";
/// The model is not empty.
pub const ACTS: [&str; 3] =
    ["the first knock can act", "the second knock can act", "the third knock can act"];
/// Claims are deleted.
pub const COLLECTED: &str = "the floor can rise to the timestamp of a knock";
/// The store goes back.
pub const ACCEPTED: &str = "all members can accept a restored store";
/// Lost responses happen.
pub const REFUSED: &str = "a claim can go through although its member refused the knock";

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let state = |skew: &Time| State {
            time: 0,
            skew: *skew,
            members: [Member::new(), Member::new()],
            store: Store::new(),
            requests: [[[0; TIMESTAMPS.len()]; PROCESSES]; MEMBERS],
            delayed: None,
            acts: [0; TIMESTAMPS.len()],
            faults: self.faults,
            flaws: Flaws::default(),
        };
        self.skews.iter().map(state).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        next.apply(action, self.variant).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_: &Self, state: &State| state.acts.iter().all(|acts| *acts < 2)),
            Property::always(FLOOR, |_: &Self, state: &State| !state.flaws.claimed_below_floor),
            Property::always(UNKNOWN, |model: &Self, state: &State| {
                !state.flaws.acted_on_unknown && !state.opens_refused(model.variant)
            }),
            Property::always(HEALED, |model: &Self, state: &State| state.heals(model.variant)),
            Property::sometimes(ACTS[0], |_: &Self, state: &State| state.acts[0] == 1),
            Property::sometimes(ACTS[1], |_: &Self, state: &State| state.acts[1] == 1),
            Property::sometimes(ACTS[2], |_: &Self, state: &State| state.acts[2] == 1),
            Property::sometimes(COLLECTED, |_: &Self, state: &State| {
                state.store.generation == 0 && state.store.floor >= TIMESTAMPS[0]
            }),
            Property::sometimes(ACCEPTED, |_: &Self, state: &State| {
                state.members.iter().all(|member| member.generation == Some(1))
            }),
            Property::sometimes(REFUSED, |_: &Self, state: &State| {
                let is_settled = |member: &Member| member.is_up && member.progress[1] == Progress::Settled;
                state.store.claims[1].is_some() && state.acts[1] == 0 && state.members.iter().all(is_settled)
            }),
        ]
    }
}
