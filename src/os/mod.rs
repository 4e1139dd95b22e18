//! The edge to the operating system: the clock, files, the environment, processes, signals, sockets.

#[cfg(feature = "server")]
pub mod clock_sync;
#[cfg(feature = "server")]
pub mod poll;

pub mod clock;
pub mod env;
pub mod files;
pub mod net;
pub mod process;
pub mod stdio;
pub mod terminal;

#[cfg(feature = "server")]
pub mod host;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod notify;
#[cfg(feature = "server")]
pub mod outbox;
#[cfg(feature = "server")]
pub mod worker;
