//! `spa-knockd status`: what the daemon reports about itself, as text or as JSON.

mod fleet_line;
pub(crate) mod show;
pub(crate) mod text;
