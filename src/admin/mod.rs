//! The administrator's commands. Each runs in a process of its own. It sends requests to the daemon's control socket,
//! or, without a daemon, reads and changes files and the kernel itself. It never processes clients' packets.

pub(crate) mod args;
pub(crate) mod check;
pub(crate) mod clients;
mod completions;
pub(crate) mod explain;
pub(crate) mod facts;
#[cfg(feature = "fleet")]
pub(crate) mod fleet;
pub(crate) mod gate;
pub(crate) mod grants;
pub(crate) mod init;
pub(crate) mod let_in;
pub(crate) mod notify;
pub(crate) mod status;
pub(crate) mod takeover;

/// For commands of the feature `fleet`.
#[cfg(not(feature = "fleet"))]
pub(crate) const WITHOUT_FLEET: &str = "this build has no support for fleets with a store\nhint: install the package, or build with: cargo build --release --features fleet";
