//! `spa-knockd status`: what the daemon reports about itself, as text or as JSON.

pub(crate) mod fleet_line;
pub(crate) mod show;
pub(crate) mod text;
