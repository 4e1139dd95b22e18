//! The edge to the operating system: the clock, files, the environment, processes, signals, sockets.

#[cfg(feature = "server")]
pub mod channel;
pub mod clock;
#[cfg(feature = "server")]
pub mod connections;
pub mod env;
pub mod files;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod netlink;
#[cfg(feature = "server")]
pub mod runner;
#[cfg(feature = "server")]
pub mod signals;
#[cfg(feature = "server")]
pub mod udp;
#[cfg(feature = "server")]
pub mod wait;
