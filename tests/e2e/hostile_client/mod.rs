//! A hostile client, or a stolen key: for each resource of the server, one key cannot lock out another.

mod audit;
mod commands;
mod full_disk;
#[cfg(feature = "fwknop")]
mod fwknop;
mod keeper_time;
mod knocks;
mod set_elements;
