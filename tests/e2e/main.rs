//! End-to-end tests, from the client to the kernel, in network namespaces. They need root; without it each test prints
//! that it is skipped.
//!
//! All tests are in one program, so that their waiting times overlap: `cargo test --test e2e -- --test-threads 8`.
#![cfg(all(feature = "daemon", feature = "legacy", target_os = "linux"))]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests start processes, read files and the clock, and panic on failure"
)]

#[path = "../language/mod.rs"]
mod language;
#[path = "../net/mod.rs"]
mod net;
#[cfg(feature = "fleet")]
#[path = "../../fleet/tests/support/mod.rs"]
mod store_support;

mod addresses;
mod audit;
mod background;
mod capabilities;
mod capture;
mod check;
mod clients;
mod combined;
mod connect;
mod daemon;
mod default_drop;
mod disk;
mod doctor;
mod documentation;
mod doors;
mod ends;
mod enrol;
mod enroll_ssh;
mod explain;
mod fan_out;
mod first_process;
#[cfg(feature = "fleet")]
mod fleet;
#[cfg(feature = "fleet")]
mod fleet_admin;
mod flood;
mod foreign_changes;
#[cfg(feature = "fwknop")]
mod fwknop;
#[cfg(feature = "fwknop")]
mod fwknop_client;
#[cfg(feature = "fwknop")]
mod fwknop_faults;
#[cfg(feature = "fwknop")]
mod fwknop_floods;
#[cfg(feature = "fwknop")]
mod fwknop_nat;
#[cfg(feature = "fwknop")]
mod fwknop_packets;
#[cfg(feature = "fwknop")]
mod fwknop_rights;
#[cfg(feature = "fwknop")]
mod fwknop_watcher;
#[cfg(feature = "fwknop")]
mod fwknopd;
mod gate;
mod grants;
mod health;
mod hint_filter;
mod hostile;
mod hostile_client;
mod iptables;
mod keep;
mod keepalived;
mod kill;
mod laboratory;
mod language_ports;
mod legacy;
mod legacy_cases;
mod legacy_defects;
mod legacy_gate;
mod legacy_grammar;
mod legacy_hosts;
mod legacy_names;
mod legacy_programs;
mod let_in;
mod link_local;
mod mistakes;
mod nat;
mod notebook;
mod open;
mod package_managers;
mod packet_log;
mod platforms;
mod ports;
mod power;
mod prober;
mod processes;
mod programs;
mod recipes;
mod refusal;
mod reload;
mod revocation;
mod run;
mod secrets;
mod signed_agents;
mod signed_client;
mod signed_knocks;
mod ssh;
mod start;
mod state;
mod status;
#[cfg(feature = "fleet")]
mod store_process;
mod strace;
mod takeover;
mod transit;
mod trust;
mod undo;
mod wait_done;
mod watcher;
mod worst_day;
