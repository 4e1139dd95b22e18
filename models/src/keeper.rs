//! The keeper of one server: replay memory, journal and lease, through kills, power losses and clock steps.
//!
//! The unit of time is 30 s, one window. There is one key with one replay domain.

mod actions;
mod disk;
mod memory;
mod process;
mod variant;

use stateright::{Model, Property};

pub use actions::Action;
pub use disk::{Lost, Pages};
pub use variant::Variant;

use disk::{Disk, File};
use process::{Process, Progress};

/// A point in time, or a time span, in units of 30 s.
pub(crate) type Time = i8;

/// The largest accepted difference between a timestamp and the clock.
const WINDOW: Time = 1;
/// `LEASE_AHEAD` in `src/state/replay.rs`.
const LEASE_AHEAD: Time = 2;
/// `LEASE_MIN` in `src/state/replay/sync.rs`.
const LEASE_MIN: Time = 1;
/// `LEASE_SLACK` in `src/state/replay/sync.rs`, which is 20 units there. The model's time is shorter.
const LEASE_SLACK: Time = 1;
/// The highest time of the clock.
const CLOCK_END: Time = 6;
/// By how much the clock is set forward or back.
const CLOCK_STEP: Time = 4;
/// The number of knocks.
const KNOCKS: usize = 2;
/// The timestamps of the knocks.
const TIMESTAMPS: [Time; KNOCKS] = [2, 5];
/// The number of power losses.
const LOSSES: u8 = 2;

/// A model of a keeper.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// What is wrong with the keeper.
    pub variant: Variant,
    /// What a power loss can leave on the disk.
    pub losses: Losses,
    /// How often the clock can be set, while the keeper runs or while it does not.
    pub clock_steps: u8,
}

/// What a power loss can leave on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losses {
    /// Any part of what is not synced.
    Any,
    /// What was written to a file first, as far as it goes. No disk promises that: for comparison only.
    Last,
}

impl Keeper {
    /// A keeper with this fault, on a disk that can lose anything, with one clock step.
    #[must_use]
    pub const fn with(variant: Variant) -> Self {
        Self { variant, losses: Losses::Any, clock_steps: 1 }
    }
}

/// A state of the keeper.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub struct State {
    wall: Time,
    disk: Disk,
    process: Option<Process>,
    /// How often each knock has acted.
    acts: [u8; KNOCKS],
    kills_left: u8,
    losses_left: u8,
    clock_steps_left: u8,
    rewrites_left: u8,
}

/// No knock acts twice.
pub const ONCE: &str = "no knock acts twice";
/// The files are always readable.
pub const STARTS: &str = "no start is refused, whatever was lost";
/// The model is not empty.
pub const ACTS: &str = "every knock can act";
/// The same after a power loss.
pub const ACCEPTS_AFTER_LOSS: &str = "a knock can be accepted after a power loss";
/// Knocks beyond the lease exist.
pub const WAITS: &str = "a knock can wait for the lease";

impl Model for Keeper {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            wall: 1,
            disk: Disk { journal: File::MISSING, lease: File::MISSING },
            process: None,
            acts: [0; KNOCKS],
            kills_left: 1,
            losses_left: LOSSES,
            clock_steps_left: self.clock_steps,
            rewrites_left: 1,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions, self.variant);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        next.apply(action, self).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_: &Self, state: &State| state.acts.iter().all(|acts| *acts < 2)),
            Property::always(STARTS, |model: &Self, state: &State| {
                state.process.is_some() || Process::start(&state.disk, state.wall, model.variant).is_some()
            }),
            Property::sometimes(ACTS, |_: &Self, state: &State| state.acts.iter().all(|acts| *acts == 1)),
            Property::sometimes(ACCEPTS_AFTER_LOSS, |_: &Self, state: &State| {
                let is_ready = |process: &Process| process.knocks.contains(&Progress::Ready);
                state.losses_left < LOSSES && state.process.as_ref().is_some_and(is_ready)
            }),
            Property::sometimes(WAITS, |_: &Self, state: &State| {
                let waits = |process: &Process| process.knocks.contains(&Progress::Waiting);
                state.process.as_ref().is_some_and(waits)
            }),
        ]
    }
}
