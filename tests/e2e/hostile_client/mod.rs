//! A client with a valid key that is stolen or hostile: for each resource of the server, one key cannot keep another out.

mod audit;
mod commands;
mod full_disk;
mod keeper_time;
mod knocks;
mod set_elements;
