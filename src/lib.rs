//! Single-packet authorization: a closed port opens for one address after one authenticated datagram.
//!
//! Each folder is a process or a layer. A module imports only from the lines below its own, and from a few modules on
//! the same line (`tests/layering.rs` has the list):
//!
//! ```text
//! dispatch                              chooses the part of spa-knockd that a command line starts
//! daemon  admin  client                 the keeper; the administrator's commands; the client
//! legacy  fleet                         compatibility with knockd and with fwknop; several servers and their store
//! supervisor  watcher  gate  state  control  audit
//! config  ipc
//! capture  firewall
//! os  packet  manual  console  completion
//!                                       system interfaces: files, packets, netlink, processes, privileges, clocks
//! ```
#![cfg_attr(
    test,
    allow(clippy::as_conversions, clippy::arithmetic_side_effects, reason = "tests count and cast freely")
)]

#[cfg(all(feature = "swap-act-and-record", not(debug_assertions)))]
compile_error!("swap-act-and-record builds a daemon that can accept a knock twice; use it only for its test");

#[cfg(all(feature = "always-won", not(debug_assertions)))]
compile_error!("always-won builds a fleet that accepts a knock on every member; use it only for its test");

#[cfg(feature = "daemon")]
mod admin;
#[cfg(feature = "daemon")]
mod audit;
#[cfg(feature = "daemon")]
pub mod capture;
pub mod client;
mod completion;
pub mod config;
#[cfg(feature = "daemon")]
mod console;
#[cfg(feature = "daemon")]
mod control;
#[cfg(feature = "daemon")]
mod daemon;
#[cfg(feature = "daemon")]
pub mod dispatch;
#[cfg(feature = "daemon")]
pub mod firewall;
#[cfg(feature = "fleet")]
pub mod fleet;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "daemon")]
mod gate;
#[cfg(feature = "daemon")]
mod ipc;
#[cfg(feature = "legacy")]
pub mod legacy;
mod manual;
pub mod os;
pub mod packet;
#[cfg(feature = "daemon")]
mod state;
#[cfg(feature = "daemon")]
mod supervisor;
#[cfg(feature = "daemon")]
pub mod watcher;
