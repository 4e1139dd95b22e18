//! Messages between the keeper and a watcher: at most [`MESSAGE`] bytes each, over one channel. Both sides can parse
//! any bytes without failing. A watcher may be compromised: the keeper believes it one thing only, that a tag or a
//! selector was checked.
//!
//! Every watcher understands [`ToShell`] and sends [`FromShell`]. The native watcher adds [`ToWatcher`] and
//! [`FromWatcher`]; the messages of the legacy watcher are in `legacy/ipc.rs`.

mod codec;
mod native;
pub(crate) mod packet_log;
mod shell;

#[cfg(feature = "legacy")]
pub(crate) use codec::TEXT_MAX;
pub(crate) use codec::{Bytes, MESSAGE};
pub(crate) use native::{CaptureSource, FromWatcher, ReceivedKnock, ReplyPath, ToWatcher, WatcherStats};
#[cfg(feature = "legacy")]
pub(crate) use shell::OWN;
pub(crate) use shell::{FromShell, OnMissingInterface, ToShell, VERSION};
