//! `spa-knockd status`: what the daemon reports of itself, for people or as JSON.

pub(crate) mod show;
pub(crate) mod text;
