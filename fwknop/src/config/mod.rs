//! `access.conf` and `fwknopd.conf`: text in, checked values out. Everything that this server cannot do is reported
//! with its line.

mod access;
mod client;
mod draft;
mod includes;
mod lines;
mod network;
mod ports;
mod problem;
mod server;
mod stanza;
mod values;

pub use access::{AccessConfig, parse_access};
pub use client::*;
pub use draft::{AccessOutline, StanzaOutline, outline_access};
pub use includes::ConfigFiles;
pub use network::Networks;
pub use ports::PacketPorts;
pub use problem::{ConfigProblem, Place};
pub use server::{ServerOutline, ServerSettings, outline_server, parse_server};
pub use stanza::{CommandRules, CommandUser, Cycle, Expiry, NatRules, Stanza};
