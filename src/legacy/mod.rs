//! Compatibility with fwknop, in a folder of its own, and with knockd: its config and knock sequences, in a separate daemon (`spa-knockd knockd`), in
//! `spa-knockd run` (`[legacy]`), and translated into our config (`spa-knockd migrate`).

#[cfg(feature = "daemon")]
pub(crate) mod daemon;
#[cfg(feature = "daemon")]
pub(crate) mod embedded;
#[cfg(all(feature = "daemon", feature = "fwknop"))]
pub mod fwknop;
#[cfg(feature = "daemon")]
pub(crate) mod grants;
#[cfg(feature = "daemon")]
mod ipc;
pub mod knockd;
#[cfg(feature = "daemon")]
pub(crate) mod migrate;
#[cfg(feature = "daemon")]
pub mod watcher;
