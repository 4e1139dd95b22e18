//! Compatibility with fwknop. Packets, configuration and rights are in the crate `spa-knock-fwknop`; here are the
//! processes that use them: a watcher, which has the stanzas' HMAC keys, and the keeper's part, which decrypts.

mod accounts;
mod allowance;
mod audit;
mod command_line;
mod command_output;
mod commands;
pub(crate) mod daemon;
mod forwards;
mod interrupted;
mod ipc;
mod local_day;
pub(crate) mod migrate;
mod service;
mod settings;
mod state_reset;
mod targets;
mod tcp_port;
mod verifier;
pub mod watcher;
mod watcher_process;

pub(crate) use service::{FwknopService, NextStanzas};
pub(crate) use settings::{FwknopConfig, LoadedStanza};
pub(crate) use state_reset::reset_memory;
pub(crate) use watcher_process::FwknopWatchConfig;
