//! What the host's own firewall does with packets that a grant lets in, and with the protected ports without one: the
//! rules are read from the kernel, and the path of such packets is followed through them.

pub(super) mod findings;
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
