//! The edge to the operating system: the clock, files, the environment, processes, signals.

pub mod clock;
pub mod env;
pub mod files;
