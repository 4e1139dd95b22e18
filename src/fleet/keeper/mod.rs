//! The keeper's side of a fleet.

mod basis;
pub(crate) mod claims;
mod lifecycle;
pub(crate) mod member;
pub(crate) mod member_grants;
mod mirrored_clients;
pub(crate) mod process;
mod store_messages;
