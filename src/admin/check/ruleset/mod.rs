//! What the host's own firewall does with packets that have a grant, and with packets to protected ports without one.
//! The rules are read from the kernel, and the path of such packets through them is followed.

pub(super) mod findings;
mod health_checks;
pub(super) mod iptables_save;
pub(super) mod journey;
pub(super) mod listing;
pub(super) mod mark;
pub(super) mod packet_class;
pub(super) mod path;
pub(super) mod remedy;
pub(super) mod rule;
pub(super) mod surroundings;
pub(super) mod survey;
