//! The keeper's side of the watcher: starts it, gives it its keys, reads its reports, and starts it again when it dies.

pub(crate) mod child;
pub(crate) mod program;
pub(crate) mod restart;
pub(crate) mod watcher_process;
pub(crate) mod watcher_supervisor;
