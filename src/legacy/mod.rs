//! Everything of knockd: its sequences and its config, as a daemon of its own, within ours, and on the way to knocks.

#[cfg(feature = "server")]
pub(crate) mod daemon;
#[cfg(feature = "server")]
pub(crate) mod embedded;
#[cfg(feature = "server")]
mod ipc;
pub mod knockd;
#[cfg(feature = "server")]
pub(crate) mod migrate;
#[cfg(feature = "server")]
pub mod watcher;
