//! Everything of knockd: its sequences and its config, as a daemon of its own, within ours, and on the way to knocks.

#[cfg(feature = "daemon")]
pub(crate) mod daemon;
#[cfg(feature = "daemon")]
pub(crate) mod embedded;
#[cfg(feature = "daemon")]
mod ipc;
pub mod knockd;
#[cfg(feature = "daemon")]
pub(crate) mod migrate;
#[cfg(feature = "daemon")]
pub mod watcher;
