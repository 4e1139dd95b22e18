//! Commands of the administrator. They run in processes of their own: they ask the daemon at its control socket, or read
//! and change its files and the kernel while none runs. No packet of a client comes here.

pub(crate) mod args;
pub(crate) mod check;
pub(crate) mod clients;
pub(crate) mod explain;
pub(crate) mod facts;
pub(crate) mod gate;
pub(crate) mod grants;
pub(crate) mod init;
pub(crate) mod let_in;
pub(crate) mod notify;
pub(crate) mod status;
