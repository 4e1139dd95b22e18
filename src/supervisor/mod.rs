//! The keeper's side of a watcher: starts it, sends its keys, reads its reports, and restarts it when it exits.

pub(crate) mod channel_process;
pub(crate) mod child;
pub(crate) mod program;
pub(crate) mod restart;
pub(crate) mod watcher_process;
pub(crate) mod watcher_supervisor;
