//! Knocks as port sequences: ports, schedule and used time steps.

pub(super) mod knock;
pub(super) mod mode;
pub(super) mod schedule;
pub(super) mod used_steps;
