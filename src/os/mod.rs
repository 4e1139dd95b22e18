//! The edge to the operating system: the clock, files, the environment, processes, signals, sockets.

pub mod clock;
pub mod env;
pub mod files;

#[cfg(feature = "server")]
pub mod capabilities;
#[cfg(feature = "server")]
pub mod channel;
#[cfg(feature = "server")]
pub mod commands;
#[cfg(feature = "server")]
pub mod confine;
#[cfg(feature = "server")]
pub mod connections;
#[cfg(feature = "server")]
pub mod descriptors;
#[cfg(feature = "server")]
pub mod host;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod netlink;
#[cfg(feature = "server")]
pub mod notify;
#[cfg(feature = "server")]
pub mod peer;
#[cfg(feature = "server")]
pub mod runner;
#[cfg(feature = "server")]
pub mod sandbox;
#[cfg(feature = "server")]
pub mod signals;
#[cfg(feature = "server")]
pub mod udp;
#[cfg(feature = "server")]
pub mod wait;
