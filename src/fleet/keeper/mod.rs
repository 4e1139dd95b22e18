//! The keeper's side of a fleet.

pub(crate) mod process;
