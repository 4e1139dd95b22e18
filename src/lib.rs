//! Single-packet authorization: a closed port opens for one address after one signed datagram.
//!
//! Modules stand in layers; each imports only from those below it (`tests/layering.rs` checks):
//!
//! ```text
//! client  server                           commands, processes, wiring
//! config  capture  firewall  os  manual    the edge: files, packets, netlink, the clock, help for people
//! gate  knockd                             decisions: pure state machines
//! wire  crypto  packet                     bytes
//! knock                                    vocabulary
//! ```
#![cfg_attr(
    test,
    allow(clippy::as_conversions, clippy::arithmetic_side_effects, reason = "tests count and cast freely")
)]

#[cfg(all(feature = "swap-act-and-record", not(debug_assertions)))]
compile_error!("swap-act-and-record makes a daemon that believes knocks twice: it is for a test alone");

#[cfg(feature = "server")]
pub mod capture;
pub mod client;
pub mod config;
pub mod crypto;
#[cfg(feature = "server")]
pub mod firewall;
pub mod gate;
pub mod knock;
pub mod knockd;
mod manual;
pub mod os;
pub mod packet;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;
