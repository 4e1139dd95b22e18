//! Processes: starting and ending them, their rights, and the sandbox.

#[cfg(feature = "server")]
pub mod capabilities;
#[cfg(feature = "server")]
pub mod command_queue;
#[cfg(feature = "server")]
pub mod daemonize;
#[cfg(feature = "server")]
pub(super) mod descendants;
#[cfg(feature = "server")]
pub mod fds;
#[cfg(feature = "server")]
pub mod privileges;
#[cfg(feature = "server")]
pub mod sandbox;
pub mod secret_command;
#[cfg(feature = "server")]
pub mod signals;
#[cfg(feature = "server")]
pub mod spawn;
