//! Interface to the operating system: clocks, files, environment, processes, signals, sockets.

#[cfg(feature = "daemon")]
pub mod clock_sync;
#[cfg(feature = "daemon")]
pub mod poll;

pub mod clock;
pub mod env;
pub mod files;
pub mod net;
pub mod process;
pub mod stdio;
pub mod terminal;

#[cfg(feature = "daemon")]
pub mod host;
#[cfg(feature = "daemon")]
pub mod log;
#[cfg(feature = "daemon")]
pub mod notify;
#[cfg(feature = "daemon")]
pub mod outbox;
#[cfg(feature = "daemon")]
pub mod worker;
