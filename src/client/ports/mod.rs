//! Knocks as port sequences: which ports, when, and which time steps have been used.

pub(super) mod knock;
pub(super) mod schedule;
pub(super) mod used_steps;
