//! The keeper's side of a fleet.

pub(crate) mod claims;
pub(crate) mod mark_file;
pub(crate) mod member;
pub(crate) mod member_grants;
mod policy;
pub(crate) mod process;
