//! Single-packet authorization: a closed port opens for one address after one signed datagram.
//!
//! Each folder is a process or a layer; a module imports only from lines below its own, and from few
//! beside it (`tests/layering.rs` has the list):
//!
//! ```text
//! dispatch                              which part of spa-knockd a command line starts
//! daemon  admin  client                 the keeper; the commands of the administrator; the client
//! legacy                                everything of knockd
//! supervisor  watcher  gate  state  control  audit
//! config  ipc
//! capture  firewall
//! os  packet  manual  console           the edge: files, packets, netlink, processes, privileges, the clock
//! ```
#![cfg_attr(
    test,
    allow(clippy::as_conversions, clippy::arithmetic_side_effects, reason = "tests count and cast freely")
)]

#[cfg(all(feature = "swap-act-and-record", not(debug_assertions)))]
compile_error!("swap-act-and-record makes a daemon that believes knocks twice: it is for a test alone");

#[cfg(feature = "daemon")]
mod admin;
#[cfg(feature = "daemon")]
mod audit;
#[cfg(feature = "daemon")]
pub mod capture;
pub mod client;
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
#[cfg(all(feature = "daemon", fuzzing))]
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
