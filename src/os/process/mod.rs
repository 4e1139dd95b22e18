//! Processes: starting and stopping them, their privileges, and the sandbox.

#[cfg(feature = "daemon")]
pub mod capabilities;
#[cfg(feature = "daemon")]
pub mod command_queue;
#[cfg(feature = "daemon")]
pub mod daemonize;
#[cfg(feature = "daemon")]
pub(super) mod descendants;
#[cfg(feature = "daemon")]
pub mod fds;
pub mod foreground;
#[cfg(unix)]
pub mod interruptions;
#[cfg(feature = "daemon")]
pub mod orphans;
#[cfg(feature = "daemon")]
pub mod privileges;
#[cfg(feature = "fwknop")]
pub mod program_output;
#[cfg(feature = "daemon")]
pub mod sandbox;
pub mod secret_command;
#[cfg(feature = "daemon")]
pub mod signals;
#[cfg(feature = "daemon")]
pub mod spawn;
